// What the files of the addon share. The interface and its promises are described in index.ts.
#ifndef FAIRLEAD_ADDON_H
#define FAIRLEAD_ADDON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define NAPI_VERSION 9

#include <node_api.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Free room before every receive: no netlink message is larger, and the kernel fills dumps in steps of 32 KiB.
#define RECEIVE_ROOM_BYTES (1u << 20)
// One answer may grow to this; a larger one fails with EMSGSIZE.
#define MAX_ANSWER_BYTES (1u << 30)
// A pure drain of notifications returns after this many bytes; what is left waits for the next call.
#define MAX_DRAIN_BYTES (16u << 20)
// A kept receive buffer that grew above this is given back after the call.
#define KEPT_ANSWER_BYTES (8u << 20)
// Jobs that may wait in one lane, and steps of one job.
#define MAX_QUEUED_JOBS 65536
#define MAX_STEPS 4096
// So long a lane that expects a job waits for it awake.
#define EXPECT_NANOSECONDS 400000L
// Socket buffers of a step that opens its own socket.
#define STEP_BUFFER_BYTES (8 << 20)

// A failed system call. `number` is a positive errno.
struct failure {
  int number;
  const char *syscall;
};

// A receive buffer that one thread keeps.
struct answer {
  uint8_t *bytes;
  size_t length;
  size_t capacity;
};

// One datagram of a job, and its answer.
struct step {
  int fd;  // -1: open a socket of `protocol` inside `namespace_fd`
  int namespace_fd;
  int protocol;
  uint8_t *data;
  size_t length;
  uint8_t *answer;
  size_t answer_length;
};

struct reply;

struct job {
  struct job *next;
  atomic_int references;
  bool is_begun;       // the first part of a job: nobody is told of its end, but in the answer to the second
  struct job *first;   // the first part, when this is the second; NULL: this is all
  const void *lane;
  napi_deferred deferred;
  struct reply *reply;  // NULL: none
  struct failure failure;  // number 0: none
  size_t count, ran;
  struct step steps[];
};

// What one environment (the main thread or a worker) keeps.
struct instance {
  struct answer answer;
};

// --- value.c: arguments, results, errors ---
bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values);
bool read_int(napi_env env, napi_value value, const char *name, int min, int max, int *out);
bool read_descriptor(napi_env env, napi_value value, const char *name, int *out);
// -1 stands for "the caller's own namespace".
bool read_namespace(napi_env env, napi_value value, const char *name, int *out);
bool read_bytes(napi_env env, napi_value value, const char *name, const uint8_t **bytes, size_t *length);
bool read_path(napi_env env, napi_value value, const char *name, char *path, size_t capacity);
bool read_function(napi_env env, napi_value value, const char *name);
napi_value make_undefined(napi_env env);
napi_value make_int(napi_env env, int value);
napi_value make_buffer(napi_env env, const uint8_t *bytes, size_t length);
napi_value make_system_error(napi_env env, struct failure failure);
// Both return NULL, what a throwing callback returns. A pending exception is left as it is.
napi_value throw_failure(napi_env env, struct failure failure);
napi_value throw_pending(napi_env env);
bool fail(struct failure *failure, const char *syscall);

// --- errno.c ---
const char *errno_name(int number);

// --- thread.c ---
// A thread with every signal blocked and a small stack. Returns 0 or an errno.
int start_thread(pthread_t *thread, void *(*body)(void *), void *argument);
// Runs `work` on a thread made for this call, inside the namespace when namespace_fd >= 0. Its result, or -1.
typedef int (*thread_work)(void *argument, struct failure *failure);
int on_own_thread(int namespace_fd, thread_work work, void *argument, struct failure *failure);
// The same on the calling thread, which must be ours, and which is back in home_fd afterwards: a thread made for
// the call costs more than all the rest of it.
int inside_namespace(int namespace_fd, int home_fd, thread_work work, void *argument, struct failure *failure);

// --- socket.c ---
int open_socket(int namespace_fd, int domain, int type, int protocol, int buffer_bytes, struct failure *failure);
// The netlink socket of a step, on a lane's thread.
int open_step_socket(int namespace_fd, int home_fd, int protocol, struct failure *failure);
napi_value socket_open(napi_env env, napi_callback_info info);
napi_value socket_set_option(napi_env env, napi_callback_info info);
napi_value socket_bind(napi_env env, napi_callback_info info);
napi_value socket_accept(napi_env env, napi_callback_info info);
napi_value socket_receive(napi_env env, napi_callback_info info);
napi_value socket_send(napi_env env, napi_callback_info info);
napi_value descriptor_close(napi_env env, napi_callback_info info);

// --- exchange.c ---
bool exchange_bytes(int fd, const uint8_t *data, size_t length, struct answer *answer, struct failure *failure);
bool reserve_answer(struct answer *answer, size_t room);
void trim_answer(struct answer *answer);
bool holds_refusal(const uint8_t *bytes, size_t length);
napi_value netlink_exchange(napi_env env, napi_callback_info info);

// --- job.c ---
// The whole job as a copy: what the caller does with its arrays afterwards does not matter. NULL: it has thrown.
struct job *read_job(napi_env env, napi_value steps);
// On a lane's thread, whose own namespace is home_fd.
void run_job(struct job *job, struct answer *scratch, int home_fd);
void settle_job(napi_env env, struct job *job);
void release_job(struct job *job);
// As a value of JavaScript, which holds it.
napi_value make_begun(napi_env env, struct job *job);
// The first part for `job`, which holds it from here. False: it has thrown.
bool read_begun(napi_env env, napi_value value, struct job *job);

// --- lane.c ---
napi_value lane_open(napi_env env, napi_callback_info info);
napi_value lane_begin(napi_env env, napi_callback_info info);
napi_value lane_run(napi_env env, napi_callback_info info);
napi_value lane_attend(napi_env env, napi_callback_info info);

// --- reply.c ---
// NULL: it has thrown. Whoever keeps one holds it, and releases it afterwards.
struct reply *read_reply(napi_env env, napi_value value);
void hold_reply(struct reply *reply);
void release_reply(struct reply *reply);
void send_reply(struct reply *reply);
napi_value reply_open(napi_env env, napi_callback_info info);
napi_value reply_arm(napi_env env, napi_callback_info info);
napi_value reply_take(napi_env env, napi_callback_info info);

// --- poll.c ---
napi_value poll_start(napi_env env, napi_callback_info info);

// --- memory.c ---
napi_value memory_trim(napi_env env, napi_callback_info info);

// --- tunnel.c ---
napi_value tun_open(napi_env env, napi_callback_info info);
napi_value tun_keep(napi_env env, napi_callback_info info);
napi_value link_ethtool(napi_env env, napi_callback_info info);
napi_value pump_open(napi_env env, napi_callback_info info);
napi_value pump_table(napi_env env, napi_callback_info info);
napi_value pump_state(napi_env env, napi_callback_info info);
napi_value pump_close(napi_env env, napi_callback_info info);

// --- namespace.c ---
napi_value namespace_open_file(napi_env env, napi_callback_info info);
napi_value namespace_create(napi_env env, napi_callback_info info);
napi_value namespace_unmount(napi_env env, napi_callback_info info);

#endif
