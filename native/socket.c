// Sockets: open (in any namespace), bind, accept, and one non-blocking receive or send at a time.
#include "addon.h"

#include <errno.h>
#include <limits.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_PASSED_DESCRIPTORS 253  // SCM_MAX_FD: the kernel passes no more in one message

struct socket_call {
  int domain, type, protocol, buffer_bytes;
};

static bool size_buffer(int fd, int forced, int plain, int bytes, struct failure *failure) {
  if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) == 0) return true;
  if (errno != EPERM) return fail(failure, "setsockopt");
  return setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes) == 0 || fail(failure, "setsockopt");
}

static bool set_up_netlink(int fd, struct failure *failure) {
  static const int options[] = {NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK};
  for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
    int on = 1;  // an older kernel does not know the newer ones
    if (setsockopt(fd, SOL_NETLINK, options[i], &on, sizeof on) != 0 && errno != ENOPROTOOPT) {
      return fail(failure, "setsockopt");
    }
  }
  struct sockaddr_nl own = {.nl_family = AF_NETLINK};
  return bind(fd, (struct sockaddr *)&own, sizeof own) == 0 || fail(failure, "bind");
}

static int open_socket_here(void *argument, struct failure *failure) {
  const struct socket_call *call = argument;
  int fd = socket(call->domain, call->type | SOCK_CLOEXEC | SOCK_NONBLOCK, call->protocol);
  if (fd < 0) {
    fail(failure, "socket");
    return -1;
  }
  if ((call->buffer_bytes > 0 && (!size_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, call->buffer_bytes, failure) ||
                                  !size_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, call->buffer_bytes, failure))) ||
      (call->domain == AF_NETLINK && !set_up_netlink(fd, failure))) {
    close(fd);
    return -1;
  }
  return fd;
}

int open_socket(int namespace_fd, int domain, int type, int protocol, int buffer_bytes, struct failure *failure) {
  struct socket_call call = {domain, type, protocol, buffer_bytes};
  if (namespace_fd < 0) return open_socket_here(&call, failure);
  return on_own_thread(namespace_fd, open_socket_here, &call, failure);
}

int open_step_socket(int namespace_fd, int home_fd, int protocol, struct failure *failure) {
  struct socket_call call = {AF_NETLINK, SOCK_RAW, protocol, STEP_BUFFER_BYTES};
  if (namespace_fd < 0) return open_socket_here(&call, failure);
  if (home_fd < 0) return on_own_thread(namespace_fd, open_socket_here, &call, failure);
  return inside_namespace(namespace_fd, home_fd, open_socket_here, &call, failure);
}

napi_value socket_open(napi_env env, napi_callback_info info) {
  napi_value values[5];
  int namespace_fd, domain, type, protocol, buffer_bytes;
  if (!read_arguments(env, info, 5, values) || !read_namespace(env, values[0], "namespaceFd", &namespace_fd) ||
      !read_int(env, values[1], "domain", 0, INT_MAX, &domain) ||
      !read_int(env, values[2], "type", 0, INT_MAX, &type) ||
      !read_int(env, values[3], "protocol", 0, INT_MAX, &protocol) ||
      !read_int(env, values[4], "bufferBytes", 0, MAX_ANSWER_BYTES, &buffer_bytes)) {
    return NULL;
  }
  struct failure failure;
  int fd = open_socket(namespace_fd, domain, type, protocol, buffer_bytes, &failure);
  return fd < 0 ? throw_failure(env, failure) : make_int(env, fd);
}

napi_value socket_set_option(napi_env env, napi_callback_info info) {
  napi_value values[4];
  int fd, level, option, value;
  if (!read_arguments(env, info, 4, values) || !read_descriptor(env, values[0], "fd", &fd) ||
      !read_int(env, values[1], "level", INT_MIN, INT_MAX, &level) ||
      !read_int(env, values[2], "option", INT_MIN, INT_MAX, &option) ||
      !read_int(env, values[3], "value", INT_MIN, INT_MAX, &value)) {
    return NULL;
  }
  if (setsockopt(fd, level, option, &value, sizeof value) == 0) return make_undefined(env);
  return throw_failure(env, (struct failure){errno, "setsockopt"});
}

napi_value socket_bind(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int fd, backlog;
  const uint8_t *address;
  size_t length;
  if (!read_arguments(env, info, 3, values) || !read_descriptor(env, values[0], "fd", &fd) ||
      !read_bytes(env, values[1], "sockaddr", &address, &length) ||
      !read_int(env, values[2], "backlog", 0, INT_MAX, &backlog)) {
    return NULL;
  }
  struct sockaddr_storage storage = {0};  // a copy: the caller's bytes have no alignment
  if (length < sizeof storage.ss_family || length > sizeof storage) {
    napi_throw_range_error(env, NULL, "sockaddr must be between 2 and 128 bytes long");
    return NULL;
  }
  memcpy(&storage, address, length);
  if (bind(fd, (struct sockaddr *)&storage, (socklen_t)length) != 0) {
    return throw_failure(env, (struct failure){errno, "bind"});
  }
  if (backlog > 0 && listen(fd, backlog) != 0) return throw_failure(env, (struct failure){errno, "listen"});
  return make_undefined(env);
}

napi_value socket_accept(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd, accepted;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, "fd", &fd)) return NULL;
  do {
    accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED));
  if (accepted >= 0) return make_int(env, accepted);
  if (errno == EAGAIN) return make_undefined(env);
  return throw_failure(env, (struct failure){errno, "accept"});
}

struct ancillary {
  int descriptors[MAX_PASSED_DESCRIPTORS];
  size_t count;
  bool has_uid;
  uid_t uid;
};

static void close_descriptors(const struct ancillary *got) {
  for (size_t i = 0; i < got->count; i++) close(got->descriptors[i]);
}

static void read_ancillary(struct msghdr *message, struct ancillary *got) {
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_RIGHTS) {
      size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      const unsigned char *from = CMSG_DATA(part);
      for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, from + i * sizeof fd, sizeof fd);
        if (got->count < MAX_PASSED_DESCRIPTORS) {
          got->descriptors[got->count++] = fd;
        } else {
          close(fd);
        }
      }
    } else if (part->cmsg_type == SCM_CREDENTIALS && part->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
      struct ucred sender;
      memcpy(&sender, CMSG_DATA(part), sizeof sender);
      got->has_uid = true;
      got->uid = sender.uid;
    }
  }
}

static napi_value make_received(napi_env env, const uint8_t *bytes, size_t length, const struct ancillary *got) {
  napi_value result, descriptors, value;
  napi_value data = make_buffer(env, bytes, length);
  if (data == NULL || napi_create_object(env, &result) != napi_ok ||
      napi_create_array_with_length(env, got->count, &descriptors) != napi_ok ||
      napi_set_named_property(env, result, "data", data) != napi_ok ||
      napi_set_named_property(env, result, "fds", descriptors) != napi_ok) {
    return NULL;
  }
  for (size_t i = 0; i < got->count; i++) {
    if (napi_create_int32(env, got->descriptors[i], &value) != napi_ok ||
        napi_set_element(env, descriptors, (uint32_t)i, value) != napi_ok) {
      return NULL;
    }
  }
  if (got->has_uid && (napi_create_uint32(env, got->uid, &value) != napi_ok ||
                       napi_set_named_property(env, result, "uid", value) != napi_ok)) {
    return NULL;
  }
  return result;
}

napi_value socket_receive(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd, max_bytes;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], "fd", &fd) ||
      !read_int(env, values[1], "maxBytes", 1, MAX_ANSWER_BYTES, &max_bytes)) {
    return NULL;
  }
  struct instance *instance = NULL;
  napi_get_instance_data(env, (void **)&instance);
  struct answer *buffer = &instance->answer;
  buffer->length = 0;
  if (!reserve_answer(buffer, (size_t)max_bytes)) return throw_failure(env, (struct failure){ENOMEM, "recvmsg"});
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MAX_PASSED_DESCRIPTORS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred)) + 64];
  } control;
  struct iovec room = {buffer->bytes, (size_t)max_bytes};
  struct msghdr message;
  ssize_t length;
  do {
    message = (struct msghdr){
        .msg_iov = &room, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (length < 0 && errno == EINTR);
  if (length < 0) {
    if (errno == EAGAIN) return make_undefined(env);
    return throw_failure(env, (struct failure){errno, "recvmsg"});
  }
  struct ancillary got = {.count = 0};
  read_ancillary(&message, &got);
  if (message.msg_flags & MSG_CTRUNC) {  // not all descriptors could be installed: our table is full
    close_descriptors(&got);
    return throw_failure(env, (struct failure){EMFILE, "recvmsg"});
  }
  napi_value result = make_received(env, buffer->bytes, (size_t)length, &got);
  trim_answer(buffer);
  if (result != NULL) return result;
  close_descriptors(&got);
  return throw_pending(env);
}

napi_value socket_send(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  const uint8_t *data;
  size_t length;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], "fd", &fd) ||
      !read_bytes(env, values[1], "data", &data, &length)) {
    return NULL;
  }
  ssize_t sent;
  do {
    sent = send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return make_int(env, (int)sent);
  if (errno == EAGAIN) return make_undefined(env);
  return throw_failure(env, (struct failure){errno, "send"});
}

napi_value descriptor_close(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, "fd", &fd)) return NULL;
  if (close(fd) == 0 || errno == EINTR) return make_undefined(env);  // EINTR: Linux has closed it
  return throw_failure(env, (struct failure){errno, "close"});
}
