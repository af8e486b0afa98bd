// A descriptor watched on Node's own loop. The handle lives until libuv has closed it; an environment that ends
// closes it first.
#include "addon.h"

#include <stdlib.h>
#include <uv.h>

struct poll {
  uv_poll_t handle;
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle hook;
  bool stopping;
  int references;  // the open handle, and the JavaScript function `stop`
};

static void release_poll(struct poll *poll) {
  if (--poll->references == 0) free(poll);
}

static void handle_closed(uv_handle_t *handle) {
  struct poll *poll = handle->data;
  if (poll->hook != NULL) napi_remove_async_cleanup_hook(poll->hook);
  release_poll(poll);
}

static void stop_poll(struct poll *poll) {
  if (poll->stopping) return;
  poll->stopping = true;
  uv_poll_stop(&poll->handle);
  if (poll->callback != NULL) napi_delete_reference(poll->env, poll->callback);
  if (poll->context != NULL) napi_async_destroy(poll->env, poll->context);
  uv_close((uv_handle_t *)&poll->handle, handle_closed);
}

static void environment_ends(napi_async_cleanup_hook_handle hook, void *data) {
  (void)hook;
  stop_poll(data);
}

static void call_back(struct poll *poll) {
  napi_env env = poll->env;
  napi_value callback, receiver, error;
  napi_get_reference_value(env, poll->callback, &callback);
  napi_get_global(env, &receiver);
  if (napi_make_callback(env, poll->context, receiver, callback, 0, NULL, NULL) != napi_pending_exception) return;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

static void readable(uv_poll_t *handle, int status, int events);

// libuv stops watching on POLLERR. For a netlink socket that is only ENOBUFS, which the next receive reports and
// clears, so watching goes on after the callback.
static void readable(uv_poll_t *handle, int status, int events) {
  (void)events;
  struct poll *poll = handle->data;
  napi_handle_scope scope;
  if (napi_open_handle_scope(poll->env, &scope) != napi_ok) return;
  poll->references++;
  call_back(poll);
  if (status < 0 && !poll->stopping) uv_poll_start(handle, UV_READABLE, readable);
  napi_close_handle_scope(poll->env, scope);
  release_poll(poll);
}

static napi_value poll_stop(napi_env env, napi_callback_info info) {
  void *poll = NULL;
  napi_get_cb_info(env, info, NULL, NULL, NULL, &poll);
  stop_poll(poll);
  return make_undefined(env);
}

static void stop_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release_poll(data);
}

// The object { stop }, which owns one reference once it has been made.
static napi_value make_poll_object(napi_env env, struct poll *poll) {
  napi_value object, stop;
  if (napi_create_object(env, &object) != napi_ok ||
      napi_create_function(env, "stop", NAPI_AUTO_LENGTH, poll_stop, poll, &stop) != napi_ok ||
      napi_set_named_property(env, object, "stop", stop) != napi_ok ||
      napi_add_finalizer(env, stop, poll, stop_collected, NULL, NULL) != napi_ok) {
    return NULL;
  }
  poll->references++;
  return object;
}

static bool prepare_callback(napi_env env, struct poll *poll, napi_value callback) {
  napi_value name;
  return napi_create_string_utf8(env, "fairlead.poll", NAPI_AUTO_LENGTH, &name) == napi_ok &&
         napi_async_init(env, NULL, name, &poll->context) == napi_ok &&
         napi_create_reference(env, callback, 1, &poll->callback) == napi_ok &&
         napi_add_async_cleanup_hook(env, environment_ends, poll, &poll->hook) == napi_ok;
}

napi_value poll_start(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  uv_loop_t *loop = NULL;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], "fd", &fd) ||
      !read_function(env, values[1], "callback")) {
    return NULL;
  }
  struct poll *poll = calloc(1, sizeof *poll);
  if (poll == NULL || napi_get_uv_event_loop(env, &loop) != napi_ok) {
    free(poll);
    return throw_pending(env);
  }
  poll->env = env;
  int error = uv_poll_init(loop, &poll->handle, fd);
  if (error != 0) {
    free(poll);
    return throw_failure(env, (struct failure){-error, "epoll_ctl"});
  }
  poll->handle.data = poll;
  poll->references = 1;
  if (!prepare_callback(env, poll, values[1])) {
    stop_poll(poll);
    return throw_pending(env);
  }
  error = uv_poll_start(&poll->handle, UV_READABLE, readable);
  napi_value object = error == 0 ? make_poll_object(env, poll) : NULL;
  if (object != NULL) return object;
  stop_poll(poll);
  return error != 0 ? throw_failure(env, (struct failure){-error, "epoll_ctl"}) : throw_pending(env);
}
