// Network namespaces as files: make one and bind it to a path, take it off again, open files inside one.
#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

struct file_call {
  const char *path;
  int flags;
};

static int open_file_here(void *argument, struct failure *failure) {
  const struct file_call *call = argument;
  for (;;) {
    int fd = open(call->path, call->flags | O_CLOEXEC, 0644);
    if (fd >= 0) return fd;
    if (errno == EINTR) continue;
    fail(failure, "open");
    return -1;
  }
}

napi_value namespace_open_file(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int namespace_fd, flags;
  char path[PATH_MAX];
  if (!read_arguments(env, info, 3, values) || !read_namespace(env, values[0], "namespaceFd", &namespace_fd) ||
      !read_path(env, values[1], "path", path, sizeof path) ||
      !read_int(env, values[2], "flags", 0, INT_MAX, &flags)) {
    return NULL;
  }
  struct file_call call = {path, flags};
  struct failure failure;
  int fd = namespace_fd < 0 ? open_file_here(&call, &failure)
                            : on_own_thread(namespace_fd, open_file_here, &call, &failure);
  return fd < 0 ? throw_failure(env, failure) : make_int(env, fd);
}

// The thread leaves its old namespace; the mount keeps the new one alive after the thread has gone.
static int bind_new_namespace(void *argument, struct failure *failure) {
  const char *path = argument;
  if (unshare(CLONE_NEWNET) != 0) {
    fail(failure, "unshare");
    return -1;
  }
  if (mount("/proc/thread-self/ns/net", path, "none", MS_BIND, NULL) != 0) {
    fail(failure, "mount");
    return -1;
  }
  return 0;
}

napi_value namespace_create(napi_env env, napi_callback_info info) {
  napi_value value;
  char path[PATH_MAX];
  if (!read_arguments(env, info, 1, &value) || !read_path(env, value, "path", path, sizeof path)) return NULL;
  int made = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
  if (made < 0 && errno != EEXIST) return throw_failure(env, (struct failure){errno, "open"});
  if (made >= 0) close(made);
  struct failure failure;
  if (on_own_thread(-1, bind_new_namespace, path, &failure) == 0) return make_undefined(env);
  if (made >= 0) unlink(path);
  return throw_failure(env, failure);
}

napi_value namespace_unmount(napi_env env, napi_callback_info info) {
  napi_value value;
  char path[PATH_MAX];
  if (!read_arguments(env, info, 1, &value) || !read_path(env, value, "path", path, sizeof path)) return NULL;
  if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return make_undefined(env);
  return throw_failure(env, (struct failure){errno, "umount2"});
}
