// The CNI plugin that a container runtime runs: it hands its environment, its input and the namespaces to the node
// daemon over a unix socket, prints what the daemon answers and exits. No libc: from exec to exit it costs about as
// much as the kernel's own part of it.
//
// Request: u32 magic "FLD1", u32 bytes of environment, u32 bytes of input (little endian), the environment as
// NAME=value\0…, the input. FAIRLEAD_PLUGIN is the name that we were called by: the type that we stand for. With the
// first byte come descriptors: our own network namespace, then CNI_NETNS if it could be opened. Reply: u32 exit code,
// u32 bytes of output, the output. A reply is read whole before any of it is printed, so the runtime never sees half
// an answer. A DEL that the daemon does not answer is kept for it (shim-queue.h), because a pod whose DEL fails can
// never end.
#include "shim-queue.h"

#define REQUEST_MAGIC 0x464c4431u
#define DEFAULT_SOCKET "/run/fairlead/cni.sock"
#define MAX_ENVIRONMENT_BYTES (256u << 10)
#define MAX_INPUT_BYTES (1u << 20)
#define MAX_OUTPUT_BYTES (4u << 20)
#define INPUT_TIMEOUT_MS 30000
#define CONNECT_TIMEOUT_MS 5000
#define CALL_TIMEOUT_MS 30000
#define STATUS_TIMEOUT_MS 5000  // runtimes ask every few seconds
#define DEL_TIMEOUT_MS 2000     // nothing is lost by an early end: the DEL is done later

#define VERSION_RESULT                                                                                              \
  "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\"," \
  "\"1.1.0\"]}\n"
#define ABOUT                                                        \
  "Fairlead CNI plugin: passes each call to the fairlead node daemon\n" \
  "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"

// Set in start(): a program without initialised data has no second page in its file.
static const char *socket_path;
static const char *plugin_name;
static unsigned long unavailable_code;
static const char *command;
static unsigned verb;

#define HEADER_BYTES 12

static char frame[HEADER_BYTES + MAX_ENVIRONMENT_BYTES + MAX_INPUT_BYTES + 1];
static size_t frame_length;
static size_t input_begin;

// Only with a complete frame.
static __attribute__((noreturn)) void keep_deletion(void) {
  struct deletion deletion = {
      .socket_path = socket_path,
      .plugin = plugin_name,
      .variables = frame + HEADER_BYTES,
      .variables_end = frame + input_begin,
      .frame = frame,
      .frame_length = frame_length,
      .input = frame + input_begin,
  };
  queue_deletion(&deletion);
  leave(0);
}

static __attribute__((noreturn)) void unavailable(const char *what, long error, const char *next_step) {
  if (verb == VERB_DEL) keep_deletion();
  if (verb == 0) {
    begin_message(CODE_ENVIRONMENT, "unknown CNI_COMMAND: ");
    add_quoted(command);
    begin_details();
    end_error();
  }
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

static int is_passed_on(const char *entry) {
  return begins_with(entry, "CNI_") || begins_with(entry, "FAIRLEAD_SOCKET=") ||
         begins_with(entry, "TRACEPARENT=") || begins_with(entry, "TRACESTATE=") || begins_with(entry, "BAGGAGE=");
}

static void add_bytes(const char *bytes, size_t length) {
  if (frame_length - HEADER_BYTES + length > MAX_ENVIRONMENT_BYTES) {
    begin_error(CODE_ENVIRONMENT, "the CNI environment variables are too long");
    add("more than ");
    add_number(MAX_ENVIRONMENT_BYTES);
    add(" bytes");
    end_error();
  }
  memcpy(frame + frame_length, bytes, length);
  frame_length += length;
}

static size_t add_environment(char **environment) {
  for (; *environment != NULL; environment++) {
    if (is_passed_on(*environment)) add_bytes(*environment, length_of(*environment) + 1);
  }
  add_bytes("FAIRLEAD_PLUGIN=", 16);
  add_bytes(plugin_name, length_of(plugin_name) + 1);
  return frame_length - HEADER_BYTES;
}

static size_t add_input(void) {
  size_t begin = input_begin = frame_length;
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
  if (limit_ms > CONNECT_TIMEOUT_MS) limit_ms = CONNECT_TIMEOUT_MS;
  int64_t limit[2] = {(int64_t)limit_ms / 1000, 0};
  call(__NR_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, P(limit), sizeof limit);
  long result;
  do {
    result = call(__NR_connect, fd, P(&address), sizeof address, 0, 0);
  } while (result == -EINTR);
  if (result == -EAGAIN) unavailable("cannot connect to", ETIMEDOUT, LOOK_AT_IT);
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
    // A container must be able to end: the daemon does what it can without its namespace.
    if (verb == VERB_DEL) return;
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
  if (control.length == 0) message.control_length = 0;
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

static const char *base_name(const char *path) {
  const char *name = path;
  for (; *path != 0; path++) {
    if (*path == '/') name = path + 1;
  }
  return name;
}

static unsigned long call_limit(void) {
  if (verb == VERB_DEL) return DEL_TIMEOUT_MS;
  return verb == VERB_STATUS ? STATUS_TIMEOUT_MS : CALL_TIMEOUT_MS;
}

static void set_limit(unsigned long ms) {
  limit_ms = ms;
  deadline_ms = now_ms() + (int64_t)ms;
}

__attribute__((used, noreturn)) void start(long *stack) {
  char **environment = (char **)(stack + 1 + stack[0] + 1);
  command = variable(environment, "CNI_COMMAND=");
  const char *path = variable(environment, "FAIRLEAD_SOCKET=");
  static const struct action ignore = {.handler = (void *)1};
  call(__NR_rt_sigaction, SIGPIPE, P(&ignore), 0, 8, 0);
  socket_path = path != NULL && *path != 0 ? path : DEFAULT_SOCKET;
  plugin_name = stack[0] > 0 ? base_name((const char *)stack[1]) : "";
  set_limit(INPUT_TIMEOUT_MS);
  if (command == NULL || *command == 0) leave(print(2, ABOUT, sizeof ABOUT - 1) ? 0 : 1);
  if (same_text(command, "VERSION")) leave(print(1, VERSION_RESULT, sizeof VERSION_RESULT - 1) ? 0 : 1);
  verb = verb_of(command);
  unavailable_code = verb == VERB_STATUS ? CODE_NOT_AVAILABLE : CODE_TRY_AGAIN;
  check_variables(environment, verb);
  frame_length = HEADER_BYTES;
  put_u32(frame, REQUEST_MAGIC);
  put_u32(frame + 4, (uint32_t)add_environment(environment));
  put_u32(frame + 8, (uint32_t)add_input());
  set_limit(call_limit());
  // Before connecting: the daemon wakes up at the connection, and should find the request there.
  open_namespaces(environment);
  int fd = connect_to_daemon();
  limit_ms = call_limit();
  send_request(fd);
  pass_reply(fd);
}
