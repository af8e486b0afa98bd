// Threads of our own, the only ones that enter a namespace: made for one call and never seen again, or a lane's,
// which comes back before it does anything else. No thread of Node's or of libuv's pool can ever be left in the
// wrong namespace.
#include "addon.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#define STACK_BYTES (256 * 1024)

struct visit {
  int namespace_fd;
  thread_work work;
  void *argument;
  struct failure *failure;
  int result;
};

int start_thread(pthread_t *thread, void *(*body)(void *), void *argument) {
  pthread_attr_t attributes;
  int error = pthread_attr_init(&attributes);
  if (error != 0) return error;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited: signals stay with Node's main thread
  error = pthread_create(thread, &attributes, body, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return error;
}

static void *visit(void *argument) {
  struct visit *visit = argument;
  if (visit->namespace_fd >= 0 && setns(visit->namespace_fd, CLONE_NEWNET) != 0) {
    fail(visit->failure, "setns");
  } else {
    visit->result = visit->work(visit->argument, visit->failure);
  }
  return NULL;
}

int on_own_thread(int namespace_fd, thread_work work, void *argument, struct failure *failure) {
  struct visit call = {namespace_fd, work, argument, failure, -1};
  pthread_t thread;
  int error = start_thread(&thread, visit, &call);
  if (error != 0) {
    *failure = (struct failure){error, "pthread_create"};
    return -1;
  }
  pthread_join(thread, NULL);
  return call.result;
}

int inside_namespace(int namespace_fd, int home_fd, thread_work work, void *argument, struct failure *failure) {
  if (setns(namespace_fd, CLONE_NEWNET) != 0) {
    fail(failure, "setns");
    return -1;
  }
  int result = work(argument, failure);
  if (setns(home_fd, CLONE_NEWNET) != 0) abort();  // everything that the thread did next would be in the wrong place
  return result;
}
