// A reply that the thread of a lane gives by itself when a job has done all its steps. It saves a client the wake-up of
// Node's thread, and the Node thread says when nothing else is to be waited for (armed) or answers itself (taken).
#include "addon.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum state { OPEN, ARMED, SENDING, SENT, FAILED, TAKEN };

struct reply {
  atomic_int references;  // the JavaScript value, and the job
  atomic_int state;       // whoever changes it from ARMED owns the descriptor and the bytes
  int fd;
  uint8_t *data;
  size_t length;
};

void hold_reply(struct reply *reply) { atomic_fetch_add(&reply->references, 1); }

void release_reply(struct reply *reply) {
  if (reply == NULL || atomic_fetch_sub(&reply->references, 1) > 1) return;
  free(reply->data);
  free(reply);
}

// On a lane's thread.
void send_reply(struct reply *reply) {
  int armed = ARMED;
  if (!atomic_compare_exchange_strong(&reply->state, &armed, SENDING)) return;
  ssize_t sent = send(reply->fd, reply->data, reply->length, MSG_DONTWAIT | MSG_NOSIGNAL);
  atomic_store(&reply->state, sent == (ssize_t)reply->length ? SENT : FAILED);
}

// --- on Node's thread ---

static void collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release_reply(data);
}

struct reply *read_reply(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  void *reply = NULL;
  napi_typeof(env, value, &type);
  if (type == napi_external && napi_get_value_external(env, value, &reply) == napi_ok) return reply;
  napi_throw_type_error(env, NULL, "reply must be a reply of this addon");
  return NULL;
}

napi_value reply_open(napi_env env, napi_callback_info info) {
  napi_value values[1], external;
  int fd;
  if (!read_arguments(env, info, 1, values) || !read_descriptor(env, values[0], "fd", &fd)) return NULL;
  struct reply *reply = calloc(1, sizeof *reply);
  if (reply == NULL) return throw_pending(env);
  atomic_store(&reply->references, 1);
  reply->fd = fd;
  if (napi_create_external(env, reply, collected, NULL, &external) == napi_ok) return external;
  release_reply(reply);
  return throw_pending(env);
}

napi_value reply_arm(napi_env env, napi_callback_info info) {
  napi_value values[2];
  const uint8_t *data;
  size_t length;
  if (!read_arguments(env, info, 2, values)) return NULL;
  struct reply *reply = read_reply(env, values[0]);
  if (reply == NULL || !read_bytes(env, values[1], "data", &data, &length)) return NULL;
  if (atomic_load(&reply->state) != OPEN) return make_undefined(env);
  reply->data = malloc(length > 0 ? length : 1);
  if (reply->data == NULL) return throw_failure(env, (struct failure){ENOMEM, "malloc"});
  memcpy(reply->data, data, length);
  reply->length = length;
  atomic_store(&reply->state, ARMED);
  return make_undefined(env);
}

napi_value reply_take(napi_env env, napi_callback_info info) {
  napi_value values[1], text;
  if (!read_arguments(env, info, 1, values)) return NULL;
  struct reply *reply = read_reply(env, values[0]);
  if (reply == NULL) return NULL;
  int state = atomic_load(&reply->state);
  while (state != SENT && state != FAILED && state != TAKEN) {
    // Sending does not block: it ends at once.
    if (state == SENDING) sched_yield();
    else if (atomic_compare_exchange_strong(&reply->state, &state, TAKEN)) break;
    state = atomic_load(&reply->state);
  }
  const char *word = state == SENT ? "sent" : state == FAILED ? "failed" : "ours";
  if (napi_create_string_utf8(env, word, NAPI_AUTO_LENGTH, &text) != napi_ok) return throw_pending(env);
  return text;
}
