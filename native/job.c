// A job of a lane: its steps as copies of what JavaScript gave, run on the lane's thread, settled on Node's.
#include "addon.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// Answers above this are handed to JavaScript without a copy.
#define COPY_BYTES (64u << 10)

void release_job(struct job *job) {
  if (job == NULL || atomic_fetch_sub(&job->references, 1) > 1) return;
  for (size_t i = 0; i < job->count; i++) {
    free(job->steps[i].data);
    free(job->steps[i].answer);
  }
  release_reply(job->reply);
  release_job(job->first);
  free(job);
}

// --- on Node's thread: from JavaScript ---

static bool copy_data(napi_env env, napi_value object, const char *name, struct step *step) {
  napi_value value;
  const uint8_t *data;
  if (napi_get_named_property(env, object, "data", &value) != napi_ok ||
      !read_bytes(env, value, name, &data, &step->length)) {
    return false;
  }
  step->data = malloc(step->length > 0 ? step->length : 1);
  if (step->data == NULL) {
    throw_failure(env, (struct failure){ENOMEM, "malloc"});
    return false;
  }
  if (step->length > 0) memcpy(step->data, data, step->length);
  return true;
}

static bool read_step(napi_env env, napi_value object, struct step *step) {
  napi_value fd, namespace_fd, protocol;
  napi_valuetype type = napi_undefined;
  napi_typeof(env, object, &type);
  if (type != napi_object) {
    napi_throw_type_error(env, NULL, "steps must hold objects");
    return false;
  }
  if (napi_get_named_property(env, object, "fd", &fd) != napi_ok) return false;
  napi_typeof(env, fd, &type);
  step->fd = -1;
  if (type != napi_undefined) {
    return read_descriptor(env, fd, "steps[].fd", &step->fd) && copy_data(env, object, "steps[].data", step);
  }
  return napi_get_named_property(env, object, "namespaceFd", &namespace_fd) == napi_ok &&
         napi_get_named_property(env, object, "protocol", &protocol) == napi_ok &&
         read_namespace(env, namespace_fd, "steps[].namespaceFd", &step->namespace_fd) &&
         read_int(env, protocol, "steps[].protocol", 0, INT_MAX, &step->protocol) &&
         copy_data(env, object, "steps[].data", step);
}

struct job *read_job(napi_env env, napi_value steps) {
  bool is_array = false;
  uint32_t count = 0;
  napi_is_array(env, steps, &is_array);
  if (!is_array || napi_get_array_length(env, steps, &count) != napi_ok) {
    napi_throw_type_error(env, NULL, "steps must be an array");
    return NULL;
  }
  if (count > MAX_STEPS) {
    napi_throw_range_error(env, NULL, "steps must be at most 4096");
    return NULL;
  }
  struct job *job = calloc(1, sizeof *job + count * sizeof job->steps[0]);
  if (job == NULL) {
    throw_failure(env, (struct failure){ENOMEM, "malloc"});
    return NULL;
  }
  atomic_store(&job->references, 1);
  job->count = count;
  for (uint32_t i = 0; i < count; i++) {
    napi_value step;
    if (napi_get_element(env, steps, i, &step) != napi_ok || !read_step(env, step, &job->steps[i])) {
      release_job(job);
      throw_pending(env);
      return NULL;
    }
  }
  return job;
}

static void begun_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  release_job(data);
}

napi_value make_begun(napi_env env, struct job *job) {
  napi_value external;
  if (napi_create_external(env, job, begun_collected, NULL, &external) != napi_ok) return throw_pending(env);
  atomic_fetch_add(&job->references, 1);
  return external;
}

bool read_begun(napi_env env, napi_value value, struct job *job) {
  napi_valuetype type = napi_undefined;
  void *first = NULL;
  napi_typeof(env, value, &type);
  if (type == napi_undefined) return true;
  if (type != napi_external || napi_get_value_external(env, value, &first) != napi_ok ||
      !((struct job *)first)->is_begun || ((struct job *)first)->lane != job->lane) {
    napi_throw_type_error(env, NULL, "begun must be what was begun on this lane");
    return false;
  }
  job->first = first;
  atomic_fetch_add(&job->first->references, 1);
  return true;
}

// --- on the lane's thread ---

static bool keep_answer(struct step *step, const struct answer *answer, struct failure *failure) {
  step->answer = malloc(answer->length > 0 ? answer->length : 1);
  if (step->answer == NULL) return fail(failure, "malloc");
  if (answer->length > 0) memcpy(step->answer, answer->bytes, answer->length);
  step->answer_length = answer->length;
  return true;
}

static bool run_step(struct answer *scratch, struct step *step, int home_fd, struct failure *failure) {
  int fd = step->fd;
  if (fd < 0) {
    fd = open_step_socket(step->namespace_fd, home_fd, step->protocol, failure);
    if (fd < 0) return false;
  }
  bool done = exchange_bytes(fd, step->data, step->length, scratch, failure) &&
              keep_answer(step, scratch, failure);
  if (step->fd < 0) close(fd);
  return done;
}

static bool is_done(const struct job *job) {
  if (job->ran < job->count) return false;
  const struct step *last = job->count > 0 ? &job->steps[job->count - 1] : NULL;
  return last == NULL || !holds_refusal(last->answer, last->answer_length);
}

// The first part ran on the same thread, before.
void run_job(struct job *job, struct answer *scratch, int home_fd) {
  if (job->first != NULL && !is_done(job->first)) return;
  while (job->ran < job->count) {
    struct step *step = &job->steps[job->ran];
    struct failure failure;
    if (!run_step(scratch, step, home_fd, &failure)) {
      job->failure = failure;
      break;
    }
    job->ran++;
    if (holds_refusal(step->answer, step->answer_length)) break;
    if (job->ran == job->count && job->reply != NULL) send_reply(job->reply);
  }
  trim_answer(scratch);
}

// --- on Node's thread: back to JavaScript ---

static void free_memory(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  free(data);
}

static napi_value make_answer(napi_env env, struct step *step) {
  napi_value value = NULL;
  if (step->answer_length > COPY_BYTES &&
      napi_create_external_buffer(env, step->answer_length, step->answer, free_memory, NULL, &value) == napi_ok) {
    step->answer = NULL;
    return value;
  }
  return make_buffer(env, step->answer, step->answer_length);
}

// False: an exception is pending.
static bool add_answers(napi_env env, napi_value answers, uint32_t from, struct job *job) {
  for (size_t i = 0; i < job->ran; i++) {
    napi_value answer = make_answer(env, &job->steps[i]);
    if (answer == NULL) return false;
    napi_set_element(env, answers, from + (uint32_t)i, answer);
  }
  return true;
}

void settle_job(napi_env env, struct job *job) {
  napi_value answers, error;
  struct job *first = job->first;
  struct failure failure = first != NULL && first->failure.number != 0 ? first->failure : job->failure;
  if (failure.number != 0) {
    napi_reject_deferred(env, job->deferred, make_system_error(env, failure));
    return;
  }
  size_t before = first == NULL ? 0 : first->ran;
  if (napi_create_array_with_length(env, before + job->ran, &answers) != napi_ok) return;
  if ((first == NULL || add_answers(env, answers, 0, first)) && add_answers(env, answers, (uint32_t)before, job)) {
    napi_resolve_deferred(env, job->deferred, answers);
  } else if (napi_get_and_clear_last_exception(env, &error) == napi_ok) {
    napi_reject_deferred(env, job->deferred, error);
  }
}
