// One netlink exchange: send, then read until nothing waits. The kernel works inside these calls: a request runs
// in the send, and a dump is refilled by each receive, so EAGAIN means that the answer is complete.
#include "addon.h"

#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

bool reserve_answer(struct answer *answer, size_t room) {
  size_t wanted = answer->length + room;
  if (wanted <= answer->capacity) return true;
  size_t capacity = answer->capacity < 2 * RECEIVE_ROOM_BYTES ? 2 * RECEIVE_ROOM_BYTES : answer->capacity;
  while (capacity < wanted) capacity *= 2;
  uint8_t *bytes = realloc(answer->bytes, capacity);
  if (bytes == NULL) return false;
  answer->bytes = bytes;
  answer->capacity = capacity;
  return true;
}

void trim_answer(struct answer *answer) {
  if (answer->capacity <= KEPT_ANSWER_BYTES) return;
  free(answer->bytes);
  *answer = (struct answer){0};
}

static bool send_datagram(int fd, const uint8_t *data, size_t length, struct failure *failure) {
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  struct iovec part = {(void *)(uintptr_t)data, length};
  struct msghdr message = {
      .msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = &part, .msg_iovlen = 1};
  for (;;) {
    if (sendmsg(fd, &message, MSG_NOSIGNAL) >= 0) return true;
    if (errno != EINTR) return fail(failure, "sendmsg");
  }
}

// Appends one datagram: 1 taken, 0 nothing waits, -1 failed. Senders other than the kernel are not listened to.
static int receive_datagram(int fd, struct answer *answer, struct failure *failure) {
  if (!reserve_answer(answer, RECEIVE_ROOM_BYTES)) {
    *failure = (struct failure){ENOMEM, "recvfrom"};
    return -1;
  }
  struct sockaddr_nl sender = {0};
  socklen_t sender_length = sizeof sender;
  ssize_t length = recvfrom(fd, answer->bytes + answer->length, answer->capacity - answer->length,
                            MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&sender, &sender_length);
  if (length < 0) {
    if (errno == EINTR) return 1;
    if (errno == EAGAIN) return 0;
    fail(failure, "recvfrom");
    return -1;
  }
  if (sender.nl_family == AF_NETLINK && sender.nl_pid != 0) return 1;
  if (length == 0) return 0;
  if ((size_t)length > answer->capacity - answer->length) {
    *failure = (struct failure){EMSGSIZE, "recvfrom"};
    return -1;
  }
  answer->length += (size_t)length;
  return 1;
}

// After ENOBUFS the rest of the queue belongs to an answer with holes: it must not reach the next request.
static void discard(int fd) {
  uint8_t byte;
  for (int rounds = 0; rounds < 1 << 20; rounds++) {
    if (recv(fd, &byte, sizeof byte, MSG_DONTWAIT | MSG_TRUNC) <= 0 && errno != EINTR && errno != ENOBUFS) return;
  }
}

bool exchange_bytes(int fd, const uint8_t *data, size_t length, struct answer *answer, struct failure *failure) {
  answer->length = 0;
  size_t limit = length > 0 ? MAX_ANSWER_BYTES : MAX_DRAIN_BYTES;
  if (length > 0 && !send_datagram(fd, data, length, failure)) return false;
  for (;;) {
    int taken = receive_datagram(fd, answer, failure);
    if (taken == 0) return true;
    if (taken > 0 && answer->length < limit) continue;
    if (taken > 0 && length == 0) return true;
    if (taken > 0) *failure = (struct failure){EMSGSIZE, "recvfrom"};
    if (failure->number == ENOBUFS || failure->number == EMSGSIZE || failure->number == ENOMEM) discard(fd);
    return false;
  }
}

bool holds_refusal(const uint8_t *bytes, size_t length) {
  for (size_t at = 0; length - at >= sizeof(struct nlmsghdr);) {
    struct nlmsghdr header;
    memcpy(&header, bytes + at, sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > length - at) return false;
    if (header.nlmsg_type == NLMSG_ERROR && header.nlmsg_len >= sizeof header + sizeof(int)) {
      int error;
      memcpy(&error, bytes + at + sizeof header, sizeof error);
      if (error < 0) return true;
    }
    size_t step = NLMSG_ALIGN((size_t)header.nlmsg_len);
    if (step >= length - at) return false;
    at += step;
  }
  return false;
}

napi_value netlink_exchange(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  const uint8_t *data;
  size_t length;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], "fd", &fd) ||
      !read_bytes(env, values[1], "data", &data, &length)) {
    return NULL;
  }
  struct instance *instance = NULL;
  napi_get_instance_data(env, (void **)&instance);
  struct failure failure;
  bool done = exchange_bytes(fd, data, length, &instance->answer, &failure);
  napi_value result = done ? make_buffer(env, instance->answer.bytes, instance->answer.length)
                           : throw_failure(env, failure);
  trim_answer(&instance->answer);
  return result;
}
