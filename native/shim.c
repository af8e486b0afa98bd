// The CNI plugin that a container runtime runs: it hands its environment, its input and the namespaces to the node
// daemon over a unix socket, prints what the daemon answers and exits. No libc: from exec to exit it costs about as
// much as the kernel's own part of it.
//
// Request: u32 magic "FLD1", u32 bytes of environment, u32 bytes of input (little endian), the environment as
// NAME=value\0…, the input. With the first byte come descriptors: our own network namespace, then CNI_NETNS if it
// could be opened. Reply: u32 exit code, u32 bytes of output, the output. A reply is read whole before any of it is
// printed, so the runtime never sees half an answer.
#include "shim-kernel.h"

#define REQUEST_MAGIC 0x464c4431u
#define DEFAULT_SOCKET "/run/fairlead/cni.sock"
#define MAX_ENVIRONMENT_BYTES (256u << 10)
#define MAX_INPUT_BYTES (1u << 20)
#define MAX_OUTPUT_BYTES (4u << 20)
#define CONNECT_TIMEOUT_S 5
#define CALL_TIMEOUT_MS 30000
#define STATUS_TIMEOUT_MS 5000  // runtimes ask every few seconds

#define VERSION_RESULT                                                                                              \
  "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\"," \
  "\"1.1.0\"]}\n"
#define ABOUT                                                        \
  "Fairlead CNI plugin: passes each call to the fairlead node daemon\n" \
  "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"

// Error codes of the CNI specification.
enum { CODE_ENVIRONMENT = 4, CODE_IO = 5, CODE_TRY_AGAIN = 11, CODE_NOT_AVAILABLE = 50 };

// gcc may call these even where the source does not.
void *memcpy(void *restrict to, const void *restrict from, size_t length) {
  for (size_t i = 0; i < length; i++) ((char *)to)[i] = ((const char *)from)[i];
  return to;
}

void *memset(void *to, int value, size_t length) {
  for (size_t i = 0; i < length; i++) ((char *)to)[i] = (char)value;
  return to;
}

static __attribute__((noreturn)) void leave(int code) {
  for (;;) call(__NR_exit_group, code, 0, 0, 0, 0);
}

// --- text ---

static size_t length_of(const char *text) {
  size_t length = 0;
  while (text[length] != 0) length++;
  return length;
}

static int begins_with(const char *text, const char *prefix) {
  while (*prefix != 0) {
    if (*text++ != *prefix++) return 0;
  }
  return 1;
}

static int same_text(const char *a, const char *b) { return begins_with(a, b) && length_of(a) == length_of(b); }

// The value of a variable, or NULL. `name` ends in "=".
static const char *variable(char **environment, const char *name) {
  for (; *environment != NULL; environment++) {
    if (begins_with(*environment, name)) return *environment + length_of(name);
  }
  return NULL;
}

static char text[4096];
static size_t text_length;

static void add(const char *part) {
  while (*part != 0 && text_length < sizeof text) text[text_length++] = *part++;
}

static void add_number(unsigned long number) {
  char digits[24];
  size_t at = sizeof digits - 1;
  digits[at] = 0;
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  add(digits + at);
}

// A part of a JSON string. Bytes that are not printable ASCII become "?": they come from a path.
static void add_quoted(const char *part) {
  char one[3] = {0};
  for (size_t count = 0; *part != 0 && count < 1024; part++, count++) {
    one[0] = *part >= ' ' && *part < 127 ? *part : '?';
    one[1] = 0;
    if (*part == '"' || *part == '\\') {
      one[0] = '\\';
      one[1] = *part;
    }
    add(one);
  }
}

static void add_errno(long error) {
  switch (error) {
    case 1: add("EPERM"); return;
    case 2: add("ENOENT"); return;
    case 5: add("EIO"); return;
    case 9: add("EBADF"); return;
    case EAGAIN: add("EAGAIN"); return;
    case 13: add("EACCES"); return;
    case 20: add("ENOTDIR"); return;
    case 21: add("EISDIR"); return;
    case 22: add("EINVAL"); return;
    case 23: add("ENFILE"); return;
    case 24: add("EMFILE"); return;
    case EPIPE: add("EPIPE"); return;
    case 88: add("ENOTSOCK"); return;
    case 91: add("EPROTOTYPE"); return;
    case 104: add("ECONNRESET"); return;
    case ETIMEDOUT: add("ETIMEDOUT"); return;
    case 111: add("ECONNREFUSED"); return;
    default: add("errno "); add_number((unsigned long)error);
  }
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

static void begin_error(unsigned long code, const char *message) {
  text_length = 0;
  add("{\"cniVersion\":\"1.1.0\",\"code\":");
  add_number(code);
  add(",\"msg\":\"");
  add(message);
  add("\",\"details\":\"");
}

static __attribute__((noreturn)) void end_error(void) {
  add("\"}\n");
  print(1, text, text_length);
  leave(1);
}

// Set in start(): a program without initialised data has no second page in its file.
static const char *socket_path;
static unsigned long unavailable_code;

static __attribute__((noreturn)) void unavailable(const char *what, long error, const char *next_step) {
  begin_error(unavailable_code, "the fairlead node daemon is not available");
  add(what);
  add(" ");
  add_quoted(socket_path);
  if (error == ETIMEDOUT) {
    add(": no answer within ");
    add_number(limit_ms / 1000);
    add(" s");
  } else if (error != 0) {
    add(": ");
    add_errno(error);
  }
  add("; ");
  add(next_step);
  end_error();
}

#define START_IT "check that `fairlead node` runs on this node and serves this socket; the runtime tries again"
#define LOOK_AT_IT "see the log of `fairlead node` on this node; the runtime tries again"

// --- the request ---

#define HEADER_BYTES 12

static char frame[HEADER_BYTES + MAX_ENVIRONMENT_BYTES + MAX_INPUT_BYTES + 1];
static size_t frame_length;

static int is_passed_on(const char *entry) {
  return begins_with(entry, "CNI_") || begins_with(entry, "TRACEPARENT=") || begins_with(entry, "TRACESTATE=") ||
         begins_with(entry, "BAGGAGE=");
}

static size_t add_environment(char **environment) {
  for (; *environment != NULL; environment++) {
    if (!is_passed_on(*environment)) continue;
    size_t length = length_of(*environment) + 1;
    if (frame_length - HEADER_BYTES + length > MAX_ENVIRONMENT_BYTES) {
      begin_error(CODE_ENVIRONMENT, "the CNI environment variables are too long");
      add("more than ");
      add_number(MAX_ENVIRONMENT_BYTES);
      add(" bytes");
      end_error();
    }
    memcpy(frame + frame_length, *environment, length);
    frame_length += length;
  }
  return frame_length - HEADER_BYTES;
}

static size_t add_input(void) {
  size_t begin = frame_length;
  for (;;) {
    long error = wait_for(0, POLLIN);
    size_t room = begin + MAX_INPUT_BYTES + 1 - frame_length;
    long got = error != 0 ? -error : call(__NR_read, 0, P(frame + frame_length), L(room), 0, 0);
    if (got == 0) return frame_length - begin;
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got < 0) {
      begin_error(CODE_IO, "error reading from stdin");
      add_errno(-got);
      end_error();
    }
    frame_length += (size_t)got;
    if (frame_length - begin > MAX_INPUT_BYTES) {
      begin_error(CODE_IO, "error reading from stdin: the network configuration is too long");
      add("more than ");
      add_number(MAX_INPUT_BYTES);
      add(" bytes");
      end_error();
    }
  }
}

static void put_u32(char *to, uint32_t value) {
  for (int i = 0; i < 4; i++) to[i] = (char)(value >> (8 * i));
}

static uint32_t get_u32(const unsigned char *from) {
  return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static int connect_to_daemon(void) {
  static struct address address;
  address.family = AF_UNIX;
  size_t length = length_of(socket_path);
  if (length >= sizeof address.path) {
    begin_error(CODE_ENVIRONMENT, "FAIRLEAD_SOCKET is too long");
    add_quoted(socket_path);
    end_error();
  }
  memcpy(address.path, socket_path, length);
  long fd = call(__NR_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0);
  if (fd < 0) unavailable("cannot open a socket for", -fd, LOOK_AT_IT);
  // A full backlog makes connect wait, for no longer than the timeout of sending.
  int64_t limit[2] = {CONNECT_TIMEOUT_S, 0};
  call(__NR_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, P(limit), sizeof limit);
  long result;
  do {
    result = call(__NR_connect, fd, P(&address), sizeof address, 0, 0);
  } while (result == -EINTR);
  if (result == -EAGAIN) {
    limit_ms = CONNECT_TIMEOUT_S * 1000;
    unavailable("cannot connect to", ETIMEDOUT, LOOK_AT_IT);
  }
  if (result < 0) unavailable("cannot connect to", -result, START_IT);
  return (int)fd;
}

static int open_namespace(const char *path) {
  return (int)call(__NR_openat, AT_FDCWD, P(path), O_CLOEXEC | O_NONBLOCK, 0, 0);
}

static struct control control;

static void open_namespaces(char **environment) {
  const char *path = variable(environment, "CNI_NETNS=");
  control.level = SOL_SOCKET;
  control.type = SCM_RIGHTS;
  control.descriptors[0] = open_namespace("/proc/self/ns/net");
  if (control.descriptors[0] < 0) {
    begin_error(CODE_IO, "cannot open /proc/self/ns/net");
    add_errno(-control.descriptors[0]);
    end_error();
  }
  control.descriptors[1] = path != NULL && *path != 0 ? open_namespace(path) : -1;
  control.length = offsetof(struct control, descriptors) + sizeof(int) * (control.descriptors[1] >= 0 ? 2 : 1);
}

static void send_request(int fd) {
  struct vector part = {frame, frame_length};
  struct message message = {.parts = &part, .part_count = 1, .control = &control, .control_length = sizeof control};
  if (control.descriptors[1] < 0) message.control_length = control.length;
  while (part.length > 0) {
    long sent = call(__NR_sendmsg, fd, P(&message), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
    if (sent == -EINTR) continue;
    if (sent == -EAGAIN) {
      long error = wait_for(fd, POLLOUT);
      if (error != 0) unavailable("cannot send to", error, LOOK_AT_IT);
      continue;
    }
    if (sent < 0) unavailable("cannot send to", -sent, LOOK_AT_IT);
    part.base = (const char *)part.base + sent;
    part.length -= (size_t)sent;
    message.control = NULL;
    message.control_length = 0;
  }
}

// --- the reply ---

static unsigned char reply[8 + MAX_OUTPUT_BYTES];

static void receive_exactly(int fd, unsigned char *to, size_t length) {
  while (length > 0) {
    long error = wait_for(fd, POLLIN);
    long got = error != 0 ? -error : call(__NR_read, fd, P(to), L(length), 0, 0);
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got == 0) unavailable("the connection ended before the whole answer came from", 0, LOOK_AT_IT);
    if (got < 0) unavailable("cannot read the answer from", -got, LOOK_AT_IT);
    to += got;
    length -= (size_t)got;
  }
}

static __attribute__((noreturn)) void pass_reply(int fd) {
  receive_exactly(fd, reply, 8);
  uint32_t code = get_u32(reply);
  uint32_t length = get_u32(reply + 4);
  if (length > MAX_OUTPUT_BYTES) unavailable("too long an answer came from", 0, LOOK_AT_IT);
  receive_exactly(fd, reply + 8, length);
  int printed = print(1, (const char *)reply + 8, length);
  leave(printed && code < 256 ? (int)code : 1);
}

__attribute__((used, noreturn)) void start(long *stack) {
  char **environment = (char **)(stack + 1 + stack[0] + 1);
  const char *command = variable(environment, "CNI_COMMAND=");
  const char *path = variable(environment, "FAIRLEAD_SOCKET=");
  static const struct action ignore = {.handler = (void *)1};
  call(__NR_rt_sigaction, SIGPIPE, P(&ignore), 0, 8, 0);
  socket_path = path != NULL && *path != 0 ? path : DEFAULT_SOCKET;
  unavailable_code = CODE_TRY_AGAIN;
  limit_ms = CALL_TIMEOUT_MS;
  if (command != NULL && same_text(command, "STATUS")) {
    limit_ms = STATUS_TIMEOUT_MS;
    unavailable_code = CODE_NOT_AVAILABLE;
  }
  deadline_ms = now_ms() + (int64_t)limit_ms;
  if (command == NULL || *command == 0) leave(print(2, ABOUT, sizeof ABOUT - 1) ? 0 : 1);
  if (same_text(command, "VERSION")) leave(print(1, VERSION_RESULT, sizeof VERSION_RESULT - 1) ? 0 : 1);
  frame_length = HEADER_BYTES;
  put_u32(frame, REQUEST_MAGIC);
  put_u32(frame + 4, (uint32_t)add_environment(environment));
  put_u32(frame + 8, (uint32_t)add_input());
  // Before connecting: the daemon wakes up at the connection, and should find the request there.
  open_namespaces(environment);
  int fd = connect_to_daemon();
  send_request(fd);
  pass_reply(fd);
}
