// A lane: one thread, one queue, jobs in order. A request to the kernel runs inside sendmsg and may wait for
// other users of the network stack, so neither Node's loop nor libuv's pool may be the one that waits.
#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const napi_type_tag lane_tag = {0x6661697264656164, 0x6c616e6500000001};

struct lane {
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  struct job *first, **last;
  size_t queued;
  atomic_bool expected;  // a job will come in a moment: the thread waits for it awake
  bool closing;          // no new jobs; the thread ends when the queue is empty
  bool abandoned;        // the environment ends: the thread does not look at the queue any more
  struct answer answer;
  napi_threadsafe_function deliver;
  // Only Node's thread touches what follows.
  size_t in_flight;
  bool joined;
  int references;  // the JavaScript object, and the thread-safe function
};

static void release_lane(struct lane *lane) {
  if (--lane->references > 0) return;
  while (lane->first != NULL) {
    struct job *job = lane->first;
    lane->first = job->next;
    free_job(job);
  }
  pthread_cond_destroy(&lane->wake);
  pthread_mutex_destroy(&lane->mutex);
  free(lane->answer.bytes);
  free(lane);
}

// --- on the lane's thread ---

static long nanoseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000L + time.tv_nsec;
}

// Looks for work without sleeping, for as long as a request takes from its first byte to its job.
static void wait_awake(struct lane *lane) {
  long until = nanoseconds() + EXPECT_NANOSECONDS;
  // Whoever else is ready goes first: perhaps it is the client, or Node's thread.
  while (atomic_load(&lane->expected) && nanoseconds() < until) sched_yield();
  atomic_store(&lane->expected, false);
}

static struct job *next_job(struct lane *lane) {
  pthread_mutex_lock(&lane->mutex);
  while (lane->first == NULL && !lane->closing) {
    if (!atomic_load(&lane->expected)) {
      pthread_cond_wait(&lane->wake, &lane->mutex);
      continue;
    }
    pthread_mutex_unlock(&lane->mutex);
    wait_awake(lane);
    pthread_mutex_lock(&lane->mutex);
  }
  struct job *job = lane->abandoned ? NULL : lane->first;
  if (job != NULL) {
    lane->first = job->next;
    if (lane->first == NULL) lane->last = &lane->first;
    lane->queued--;
  }
  pthread_mutex_unlock(&lane->mutex);
  return job;
}

static void *work(void *argument) {
  struct lane *lane = argument;
  pthread_setname_np(pthread_self(), "fairlead-lane");
  int home_fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);  // without it steps get threads of their own
  for (struct job *job = next_job(lane); job != NULL; job = next_job(lane)) {
    run_job(job, &lane->answer, home_fd);
    if (napi_call_threadsafe_function(lane->deliver, job, napi_tsfn_nonblocking) != napi_ok) {
      free_job(job);  // the environment has ended, and with the refusal our hold on the function
      if (home_fd >= 0) close(home_fd);
      return NULL;
    }
  }
  if (home_fd >= 0) close(home_fd);
  napi_release_threadsafe_function(lane->deliver, napi_tsfn_release);
  return NULL;
}

// --- on Node's thread ---

static void end_lane(struct lane *lane, bool abandon) {
  pthread_mutex_lock(&lane->mutex);
  lane->closing = true;
  lane->abandoned = lane->abandoned || abandon;
  pthread_cond_signal(&lane->wake);
  pthread_mutex_unlock(&lane->mutex);
}

static void join_lane(struct lane *lane) {
  if (!lane->joined) pthread_join(lane->thread, NULL);
  lane->joined = true;
}

static void environment_ends(void *data) {
  end_lane(data, true);
  join_lane(data);
}

// A job comes back from the thread. Without an environment only its memory is left to be given back.
static void deliver(napi_env env, napi_value callback, void *context, void *data) {
  (void)callback;
  struct lane *lane = context;
  if (env != NULL) {
    settle_job(env, data);
    if (--lane->in_flight == 0) napi_unref_threadsafe_function(env, lane->deliver);
  }
  free_job(data);
}

static void delivery_ended(napi_env env, void *data, void *hint) {
  (void)hint;
  struct lane *lane = data;
  if (!lane->joined) napi_remove_env_cleanup_hook(env, environment_ends, lane);
  join_lane(lane);
  release_lane(lane);
}

static void object_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  struct lane *lane = data;
  end_lane(lane, false);
  release_lane(lane);
}

static struct lane *unwrap(napi_env env, napi_value object) {
  bool ours = false;
  void *lane = NULL;
  napi_valuetype type = napi_undefined;
  napi_typeof(env, object, &type);
  if (type == napi_object && napi_check_object_type_tag(env, object, &lane_tag, &ours) == napi_ok && ours &&
      napi_unwrap(env, object, &lane) == napi_ok) {
    return lane;
  }
  napi_throw_type_error(env, NULL, "lane must be a lane of this addon");
  return NULL;
}

static napi_value lane_close(napi_env env, napi_callback_info info) {
  napi_value self;
  napi_get_cb_info(env, info, NULL, NULL, &self, NULL);
  struct lane *lane = unwrap(env, self);
  if (lane == NULL) return NULL;
  end_lane(lane, false);
  return make_undefined(env);
}

static struct lane *create_lane(void) {
  struct lane *lane = calloc(1, sizeof *lane);  // on the heap: nothing of it is destroyed while a thread waits on it
  if (lane == NULL) return NULL;
  pthread_mutex_init(&lane->mutex, NULL);
  pthread_cond_init(&lane->wake, NULL);
  lane->last = &lane->first;
  lane->references = 1;
  return lane;
}

// From here the thread-safe function owns one reference, which it gives back in delivery_ended.
static bool start_lane(napi_env env, struct lane *lane, struct failure *failure) {
  napi_value name;
  *failure = (struct failure){0};
  if (napi_create_string_utf8(env, "fairlead.lane", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, NULL, NULL, name, 0, 1, lane, delivery_ended, lane, deliver,
                                      &lane->deliver) != napi_ok) {
    return false;
  }
  lane->references++;
  napi_unref_threadsafe_function(env, lane->deliver);
  int error = start_thread(&lane->thread, work, lane);
  if (error != 0) {
    lane->joined = true;
    napi_release_threadsafe_function(lane->deliver, napi_tsfn_abort);
    *failure = (struct failure){error, "pthread_create"};
    return false;
  }
  napi_add_env_cleanup_hook(env, environment_ends, lane);
  return true;
}

napi_value lane_open(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value object, close;
  struct lane *lane = create_lane();
  if (lane == NULL) return throw_failure(env, (struct failure){ENOMEM, "malloc"});
  if (napi_create_object(env, &object) != napi_ok ||
      napi_create_function(env, "close", NAPI_AUTO_LENGTH, lane_close, NULL, &close) != napi_ok ||
      napi_set_named_property(env, object, "close", close) != napi_ok ||
      napi_type_tag_object(env, object, &lane_tag) != napi_ok ||
      napi_wrap(env, object, lane, object_collected, NULL, NULL) != napi_ok) {
    release_lane(lane);
    return throw_pending(env);
  }
  struct failure failure;
  if (start_lane(env, lane, &failure)) return object;
  return failure.number != 0 ? throw_failure(env, failure) : throw_pending(env);
}

// Queues the job, or says why not as an errno.
static int enqueue(struct lane *lane, struct job *job) {
  pthread_mutex_lock(&lane->mutex);
  int error = lane->closing ? ECANCELED : lane->queued >= MAX_QUEUED_JOBS ? ENOBUFS : 0;
  if (error == 0) {
    *lane->last = job;
    lane->last = &job->next;
    lane->queued++;
  }
  pthread_mutex_unlock(&lane->mutex);
  // Not while the mutex is held: the thread would wake only to wait for it. The lane outlives this call. A thread that
  // waits awake needs no signal.
  if (error == 0 && !atomic_exchange(&lane->expected, false)) pthread_cond_signal(&lane->wake);
  return error;
}

napi_value lane_expect(napi_env env, napi_callback_info info) {
  napi_value value;
  if (!read_arguments(env, info, 1, &value)) return NULL;
  struct lane *lane = unwrap(env, value);
  if (lane == NULL) return NULL;
  if (lane->in_flight > 0) return make_undefined(env);  // the thread is awake
  // Under the mutex: between the thread's last look and its sleep nothing may change.
  pthread_mutex_lock(&lane->mutex);
  atomic_store(&lane->expected, true);
  pthread_mutex_unlock(&lane->mutex);
  pthread_cond_signal(&lane->wake);
  return make_undefined(env);
}

napi_value lane_run(napi_env env, napi_callback_info info) {
  napi_value values[3], promise;
  napi_valuetype type = napi_undefined;
  if (!read_arguments(env, info, 3, values)) return NULL;
  struct lane *lane = unwrap(env, values[0]);
  if (lane == NULL) return NULL;
  napi_typeof(env, values[2], &type);
  struct reply *reply = type == napi_undefined ? NULL : read_reply(env, values[2]);
  if (reply == NULL && type != napi_undefined) return NULL;
  struct job *job = read_job(env, values[1]);
  if (job == NULL) return NULL;
  if (reply != NULL) hold_reply(reply);
  job->reply = reply;
  napi_deferred deferred;
  if (napi_create_promise(env, &deferred, &promise) != napi_ok) {
    free_job(job);
    return throw_pending(env);
  }
  job->deferred = deferred;
  int error = enqueue(lane, job);  // the job belongs to the thread from here
  if (error != 0) {
    free_job(job);
    napi_reject_deferred(env, deferred, make_system_error(env, (struct failure){error, "run"}));
    return promise;
  }
  if (lane->in_flight++ == 0) napi_ref_threadsafe_function(env, lane->deliver);
  return promise;
}
