// A lane: one thread, one queue, jobs in order. A request to the kernel runs inside sendmsg and may wait for
// other users of the network stack, so neither Node's loop nor libuv's pool may be the one that waits.
#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static const napi_type_tag lane_tag = {0x6661697264656164, 0x6c616e6500000001};

struct lane {
  pthread_t thread;
  pthread_mutex_t mutex;
  struct job *first, **last;
  size_t queued;
  int wake_fd;           // an eventfd: there is a job, or the end
  int sleep_fd;          // an epoll, where the thread sleeps: wake_fd, and a listener whose clients bring jobs
  atomic_bool expected;  // a client has come, and a job will in a moment: the thread waits for it awake
  bool closing;          // no new jobs; the thread ends when the queue is empty
  bool abandoned;        // the environment ends: the thread does not look at the queue any more
  struct answer answer;
  napi_threadsafe_function deliver;
  // Only Node's thread touches what follows.
  size_t in_flight;
  bool joined;
  int references;  // the JavaScript object, and the thread-safe function
};

static void close_descriptors(struct lane *lane) {
  if (lane->sleep_fd >= 0) close(lane->sleep_fd);
  if (lane->wake_fd >= 0) close(lane->wake_fd);
  lane->sleep_fd = lane->wake_fd = -1;
}

static void release_lane(struct lane *lane) {
  if (--lane->references > 0) return;
  while (lane->first != NULL) {
    struct job *job = lane->first;
    lane->first = job->next;
    release_job(job);
  }
  close_descriptors(lane);
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

static bool is_idle(struct lane *lane) {
  pthread_mutex_lock(&lane->mutex);
  bool idle = lane->first == NULL && !lane->closing;
  pthread_mutex_unlock(&lane->mutex);
  return idle;
}

// Waits for a job without sleeping, for as long as a request takes from its first byte to its job.
static void wait_awake(struct lane *lane) {
  long until = nanoseconds() + EXPECT_NANOSECONDS;
  atomic_store(&lane->expected, true);
  // What was queued before that has written to wake_fd, and what is queued from now on ends the wait.
  if (is_idle(lane)) {
    // Whoever else is ready goes first: perhaps it is the client, or Node's thread.
    while (atomic_load(&lane->expected) && nanoseconds() < until) sched_yield();
  }
  atomic_store(&lane->expected, false);
}

// Whoever wakes the thread for a job has queued it before, so that the next look finds it.
static void sleep_until_woken(struct lane *lane) {
  struct epoll_event events[2];
  uint64_t count;
  int ready = epoll_wait(lane->sleep_fd, events, 2, -1);
  bool comes_job = false, comes_client = false;
  for (int i = 0; i < ready; i++) {
    if (events[i].data.fd == lane->wake_fd) comes_job = true;
    else comes_client = true;
  }
  if (comes_job) {
    while (read(lane->wake_fd, &count, sizeof count) < 0 && errno == EINTR) {}
  } else if (comes_client) {
    wait_awake(lane);
  }
}

static struct job *next_job(struct lane *lane) {
  pthread_mutex_lock(&lane->mutex);
  while (lane->first == NULL && !lane->closing) {
    pthread_mutex_unlock(&lane->mutex);
    sleep_until_woken(lane);
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
    if (job->is_begun) {
      release_job(job);
      continue;
    }
    if (napi_call_threadsafe_function(lane->deliver, job, napi_tsfn_nonblocking) != napi_ok) {
      release_job(job);  // the environment has ended, and with the refusal our hold on the function
      if (home_fd >= 0) close(home_fd);
      return NULL;
    }
  }
  if (home_fd >= 0) close(home_fd);
  napi_release_threadsafe_function(lane->deliver, napi_tsfn_release);
  return NULL;
}

// --- on Node's thread ---

// The count cannot overflow: the thread takes it away each time.
static void wake(struct lane *lane) {
  atomic_store(&lane->expected, false);
  if (lane->wake_fd >= 0) eventfd_write(lane->wake_fd, 1);
}

static void end_lane(struct lane *lane, bool abandon) {
  pthread_mutex_lock(&lane->mutex);
  lane->closing = true;
  lane->abandoned = lane->abandoned || abandon;
  pthread_mutex_unlock(&lane->mutex);
  wake(lane);
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
  release_job(data);
}

static void delivery_ended(napi_env env, void *data, void *hint) {
  (void)hint;
  struct lane *lane = data;
  if (!lane->joined) napi_remove_env_cleanup_hook(env, environment_ends, lane);
  join_lane(lane);
  close_descriptors(lane);
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

static bool watch(struct lane *lane, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  return epoll_ctl(lane->sleep_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static struct lane *create_lane(void) {
  struct lane *lane = calloc(1, sizeof *lane);  // on the heap: nothing of it is destroyed while a thread waits on it
  if (lane == NULL) return NULL;
  pthread_mutex_init(&lane->mutex, NULL);
  lane->last = &lane->first;
  lane->references = 1;
  lane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  lane->sleep_fd = epoll_create1(EPOLL_CLOEXEC);
  if (lane->wake_fd >= 0 && lane->sleep_fd >= 0 && watch(lane, lane->wake_fd, EPOLLIN)) return lane;
  int error = errno;
  release_lane(lane);
  errno = error;
  return NULL;
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
  if (lane == NULL) return throw_failure(env, (struct failure){errno, "open a lane"});
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
  // waits awake needs no waking.
  if (error == 0 && !atomic_exchange(&lane->expected, false)) wake(lane);
  return error;
}

napi_value lane_attend(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  if (!read_arguments(env, info, 2, values)) return NULL;
  struct lane *lane = unwrap(env, values[0]);
  if (lane == NULL || !read_descriptor(env, values[1], "fd", &fd)) return NULL;
  // By the edge: whether a client is accepted is not the lane's affair.
  if (!watch(lane, fd, EPOLLIN | EPOLLET)) return throw_failure(env, (struct failure){errno, "epoll_ctl"});
  return make_undefined(env);
}

napi_value lane_begin(napi_env env, napi_callback_info info) {
  napi_value values[2];
  if (!read_arguments(env, info, 2, values)) return NULL;
  struct lane *lane = unwrap(env, values[0]);
  struct job *job = lane == NULL ? NULL : read_job(env, values[1]);
  if (job == NULL) return NULL;
  job->is_begun = true;
  job->lane = lane;
  napi_value begun = make_begun(env, job);
  int error = begun == NULL ? 0 : enqueue(lane, job);
  if (begun != NULL && error == 0) return begun;
  release_job(job);
  return begun == NULL ? NULL : throw_failure(env, (struct failure){error, "begin"});
}

napi_value lane_run(napi_env env, napi_callback_info info) {
  napi_value values[4], promise;
  napi_valuetype type = napi_undefined;
  if (!read_arguments(env, info, 4, values)) return NULL;
  struct lane *lane = unwrap(env, values[0]);
  if (lane == NULL) return NULL;
  napi_typeof(env, values[2], &type);
  struct reply *reply = type == napi_undefined ? NULL : read_reply(env, values[2]);
  if (reply == NULL && type != napi_undefined) return NULL;
  struct job *job = read_job(env, values[1]);
  if (job == NULL) return NULL;
  job->lane = lane;
  if (!read_begun(env, values[3], job)) {
    release_job(job);
    return NULL;
  }
  if (reply != NULL) hold_reply(reply);
  job->reply = reply;
  napi_deferred deferred;
  if (napi_create_promise(env, &deferred, &promise) != napi_ok) {
    release_job(job);
    return throw_pending(env);
  }
  job->deferred = deferred;
  int error = enqueue(lane, job);  // the job belongs to the thread from here
  if (error != 0) {
    release_job(job);
    napi_reject_deferred(env, deferred, make_system_error(env, (struct failure){error, "run"}));
    return promise;
  }
  if (lane->in_flight++ == 0) napi_ref_threadsafe_function(env, lane->deliver);
  return promise;
}
