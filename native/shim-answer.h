// Waiting, printing, and the error that the shim says itself.
#ifndef FAIRLEAD_SHIM_ANSWER_H
#define FAIRLEAD_SHIM_ANSWER_H

#include "shim-text.h"

// Error codes of the CNI specification.
enum { CODE_ENVIRONMENT = 4, CODE_IO = 5, CODE_TRY_AGAIN = 11, CODE_NOT_AVAILABLE = 50 };

// For an error that is told when all the time of the call is over.
#define PRINT_TIMEOUT_MS 1000

static __attribute__((noreturn)) void leave(int code) {
  for (;;) call(__NR_exit_group, code, 0, 0, 0, 0);
}

// --- waiting, all of it before one deadline ---

static int64_t deadline_ms;
static unsigned long limit_ms;

static int64_t now_ms(void) {
  struct timespec now = {0, 0};
  call(__NR_clock_gettime, CLOCK_MONOTONIC, P(&now), 0, 0, 0);
  return now.seconds * 1000 + now.nanoseconds / 1000000;
}

// 0 when ready, else a positive errno.
static long wait_for(int fd, int16_t events) {
  for (;;) {
    int64_t left = deadline_ms - now_ms();
    if (left <= 0) return ETIMEDOUT;
    struct timespec timeout = {left / 1000, left % 1000 * 1000000};
    struct pollfd waited = {fd, events, 0};
    long ready = call(__NR_ppoll, P(&waited), 1, P(&timeout), 0, 8);
    if (ready > 0) return 0;
    if (ready == 0) return ETIMEDOUT;
    if (ready != -EINTR) return -ready;
  }
}

static int print(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    long written = call(__NR_write, fd, P(bytes), L(length), 0, 0);
    if (written == -EINTR) continue;
    if (written == -EAGAIN && wait_for(fd, POLLOUT) == 0) continue;
    if (written <= 0) return 0;
    bytes += written;
    length -= (size_t)written;
  }
  return 1;
}

// --- errors, the only thing the shim says itself ---

static void begin_message(unsigned long code, const char *message) {
  text_length = 0;
  add("{\"cniVersion\":\"1.1.0\",\"code\":");
  add_number(code);
  add(",\"msg\":\"");
  add(message);
}

static void begin_details(void) { add("\",\"details\":\""); }

static void begin_error(unsigned long code, const char *message) {
  begin_message(code, message);
  begin_details();
}

static __attribute__((noreturn)) void end_error(void) {
  add("\"}\n");
  deadline_ms = now_ms() + PRINT_TIMEOUT_MS;
  print(1, text, text_length);
  leave(1);
}

#endif
