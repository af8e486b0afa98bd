// The pump: one thread that carries packets between a TUN device and UDP sockets, many in each system call. Where a
// packet goes, and whose packets are taken, is in the table that it is given.
#include "tunnel.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
// How long a full socket may hold up the device; what does not fit then is lost, as on any full link.
#define SEND_WAIT_MS 20

struct datagram {
  struct sockaddr_in6 address;
  uint8_t control[64] __attribute__((aligned(8)));
  uint8_t bytes[PACKET_BYTES];
};

struct pump {
  pthread_t thread;
  pthread_mutex_t mutex;  // held while a batch is worked on, and while the table changes
  struct table table;
  struct counters counters;
  int tun_fd, udp_fds[2], wake_fd;
  atomic_bool stopping, ended;
  bool cuts[2];  // the socket cuts large sends by itself
  // Only the thread touches what follows.
  struct virtio_net_hdr headers[BATCH];
  uint8_t packets[BATCH][PACKET_BYTES];
  struct datagram datagrams[BATCH];
  struct cut cut;
  struct run run;
};

static void count(atomic_ullong *counter, size_t by) { atomic_fetch_add_explicit(counter, by, memory_order_relaxed); }

// --- the table ---

static const struct route *find_route(const struct table *table, const uint8_t address[16]) {
  size_t low = 0, high = table->route_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (memcmp(table->routes[middle].last, address, 16) < 0) low = middle + 1;
    else high = middle;
  }
  if (low == table->route_count || memcmp(table->routes[low].first, address, 16) > 0) return NULL;
  return &table->routes[low];
}

static int compare(const void *a, const void *b) { return memcmp(a, b, 16); }

static bool is_known(const struct table *table, const uint8_t address[16]) {
  return bsearch(address, table->senders, table->sender_count, 16, compare) != NULL;
}

static bool is_mapped(const uint8_t address[16]) {
  static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
  return memcmp(address, prefix, sizeof prefix) == 0;
}

// The address of an endpoint, and which of the two sockets sends there.
static int aim(const struct route *route, struct sockaddr_storage *address, socklen_t *length) {
  uint16_t port;
  memcpy(&port, route->port, 2);
  if (is_mapped(route->endpoint)) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = port};
    memcpy(&to.sin_addr, route->endpoint + 12, 4);
    memcpy(address, &to, *length = sizeof to);
    return 0;
  }
  struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = port};
  memcpy(&to.sin6_addr, route->endpoint, 16);
  memcpy(address, &to, *length = sizeof to);
  return 1;
}

// --- from the device to the peers ---

// All of them, in as few calls as the socket's buffer allows. Returns how many went out.
static size_t send_all(int fd, struct mmsghdr *messages, size_t total) {
  size_t sent = 0, taken = 0;
  for (bool waited = false; taken < total;) {
    int done = sendmmsg(fd, messages + taken, (unsigned)(total - taken), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done > 0) {
      taken += (size_t)done;
      sent += (size_t)done;
      waited = false;
    } else if ((errno == EAGAIN || errno == ENOBUFS) && !waited) {
      struct pollfd wait = {fd, POLLOUT, 0};
      poll(&wait, 1, SEND_WAIT_MS);
      waited = true;
    } else if (errno != EINTR) {
      taken++;  // this one cannot be sent; the next may
    }
  }
  return sent;
}

// One send that the kernel cuts. False: this socket's way cannot do that.
static bool send_cut(int fd, const struct sockaddr_storage *to, socklen_t to_length, struct cut *cut) {
  uint8_t control[CMSG_SPACE(sizeof(uint16_t))] __attribute__((aligned(8))) = {0};
  struct msghdr message = {.msg_name = (void *)to, .msg_namelen = to_length, .msg_iov = cut->parts,
                           .msg_iovlen = cut->count, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  uint16_t size = (uint16_t)cut->size;
  *part = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof size), .cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT};
  memcpy(CMSG_DATA(part), &size, sizeof size);
  for (bool waited = false;; waited = true) {
    if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
    if ((errno != EAGAIN && errno != ENOBUFS) || waited) return errno != EIO && errno != EINVAL;
    struct pollfd wait = {fd, POLLOUT, 0};
    poll(&wait, 1, SEND_WAIT_MS);
  }
}

static void send_pieces(struct pump *pump, int fd, const struct sockaddr_storage *to, socklen_t to_length) {
  struct mmsghdr messages[MAX_SEGMENTS];
  struct cut *cut = &pump->cut;
  for (size_t i = 0; i < cut->segments; i++) {
    messages[i] = (struct mmsghdr){.msg_hdr = {.msg_name = (void *)to, .msg_namelen = to_length,
                                               .msg_iov = &cut->parts[2 * i], .msg_iovlen = 2}};
  }
  count(&pump->counters.lost, cut->segments - send_all(fd, messages, cut->segments));
}

static void send_large(struct pump *pump, int which, const struct sockaddr_storage *to, socklen_t to_length,
                       const struct virtio_net_hdr *header, const uint8_t *packet, size_t length) {
  int fd = pump->udp_fds[which];
  pump->cut.at = 0;
  do {
    if (!cut_packet(header, packet, length, &pump->cut)) {
      count(&pump->counters.malformed, 1);
      return;
    }
    count(&pump->counters.sent, pump->cut.segments);
    if (pump->cuts[which] && pump->cut.segments > 1) {
      pump->cuts[which] = send_cut(fd, to, to_length, &pump->cut);
      if (pump->cuts[which]) continue;
    }
    send_pieces(pump, fd, to, to_length);
  } while (!pump->cut.done);
}

struct outbox {
  struct mmsghdr messages[BATCH];
  struct sockaddr_storage addresses[BATCH];
  struct iovec parts[BATCH];
  size_t count;
  int which;
};

static void flush(struct pump *pump, struct outbox *outbox) {
  if (outbox->count == 0) return;
  size_t sent = send_all(pump->udp_fds[outbox->which], outbox->messages, outbox->count);
  count(&pump->counters.sent, sent);
  count(&pump->counters.lost, outbox->count - sent);
  outbox->count = 0;
}

// Packets of one connection stay in their order: what is large goes out after all that came before it.
static void carry_out(struct pump *pump, struct outbox *outbox, size_t slot, size_t length) {
  uint8_t *packet = pump->packets[slot], destination[16];
  const struct virtio_net_hdr *header = &pump->headers[slot];
  if (ip_version(packet, length) == 0) return count(&pump->counters.malformed, 1);
  destination_of(packet, destination);
  const struct route *route = find_route(&pump->table, destination);
  if (route == NULL) return count(&pump->counters.no_route, 1);
  struct sockaddr_storage *to = &outbox->addresses[outbox->count], large;
  socklen_t to_length;
  bool is_large = header->gso_type != VIRTIO_NET_HDR_GSO_NONE;
  int which = aim(route, is_large ? &large : to, &to_length);
  if (pump->udp_fds[which] < 0) return count(&pump->counters.no_route, 1);
  if (is_large) {
    flush(pump, outbox);
    return send_large(pump, which, &large, to_length, header, packet, length);
  }
  if (!complete_checksum(header, packet, length)) return count(&pump->counters.malformed, 1);
  if (outbox->count > 0 && outbox->which != which) {
    struct sockaddr_storage kept = *to;
    flush(pump, outbox);
    *(to = &outbox->addresses[0]) = kept;
  }
  size_t at = outbox->count++;
  outbox->which = which;
  outbox->parts[at] = (struct iovec){packet, length};
  outbox->messages[at] = (struct mmsghdr){
      .msg_hdr = {.msg_name = to, .msg_namelen = to_length, .msg_iov = &outbox->parts[at], .msg_iovlen = 1}};
}

// False: the device is gone.
static bool pump_out(struct pump *pump) {
  struct outbox outbox = {.count = 0};
  bool is_there = true;
  for (size_t slot = 0; slot < BATCH; slot++) {
    struct iovec parts[2] = {{&pump->headers[slot], sizeof pump->headers[slot]}, {pump->packets[slot], PACKET_BYTES}};
    ssize_t got = readv(pump->tun_fd, parts, 2);
    if (got < 0) {
      is_there = errno == EAGAIN || errno == EINTR;
      break;
    }
    if ((size_t)got > sizeof pump->headers[slot]) carry_out(pump, &outbox, slot, (size_t)got - sizeof pump->headers[slot]);
  }
  flush(pump, &outbox);
  return is_there;
}

// --- from the peers to the device ---

static void write_run(struct pump *pump) {
  size_t parts = finish_run(&pump->run);
  // A device that is down takes nothing.
  if (writev(pump->tun_fd, pump->run.parts, (int)parts) < 0) count(&pump->counters.lost, pump->run.count);
  else count(&pump->counters.received, pump->run.count);
  pump->run.count = 0;
}

static size_t segment_bytes_of(struct msghdr *message, size_t length) {
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    int size;
    if (part->cmsg_level != IPPROTO_UDP || part->cmsg_type != UDP_GRO) continue;
    memcpy(&size, CMSG_DATA(part), sizeof size);
    if (size > 0) return (size_t)size;
  }
  return length;
}

static bool is_from_peer(struct pump *pump, const struct sockaddr_in6 *from) {
  uint8_t address[16] = {[10] = 0xff, [11] = 0xff};
  if (from->sin6_family == AF_INET) memcpy(address + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
  else memcpy(address, &from->sin6_addr, 16);
  return is_known(&pump->table, address);
}

static void carry_in(struct pump *pump, struct datagram *datagram, struct msghdr *message, size_t length) {
  if (length == 0) return;
  size_t step = segment_bytes_of(message, length);
  if (!is_from_peer(pump, &datagram->address)) return count(&pump->counters.bad_sender, (length + step - 1) / step);
  for (size_t at = 0; at < length; at += step) {
    const uint8_t *packet = datagram->bytes + at;
    size_t bytes = length - at < step ? length - at : step;
    if (ip_version(packet, bytes) == 0) {
      count(&pump->counters.malformed, 1);
    } else if (pump->run.count == 0 || !extend_run(&pump->run, packet, bytes)) {
      if (pump->run.count > 0) write_run(pump);
      begin_run(&pump->run, packet, bytes);
    }
  }
}

static void pump_in(struct pump *pump, int fd) {
  struct mmsghdr messages[BATCH];
  struct iovec parts[BATCH];
  for (size_t i = 0; i < BATCH; i++) {
    struct datagram *datagram = &pump->datagrams[i];
    parts[i] = (struct iovec){datagram->bytes, sizeof datagram->bytes};
    messages[i] = (struct mmsghdr){
        .msg_hdr = {.msg_name = &datagram->address, .msg_namelen = sizeof datagram->address, .msg_iov = &parts[i],
                    .msg_iovlen = 1, .msg_control = datagram->control, .msg_controllen = sizeof datagram->control}};
  }
  int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
  for (int i = 0; i < got; i++) carry_in(pump, &pump->datagrams[i], &messages[i].msg_hdr, messages[i].msg_len);
  if (pump->run.count > 0) write_run(pump);
}

// --- the thread ---

static void *work(void *argument) {
  struct pump *pump = argument;
  pthread_setname_np(pthread_self(), "fairlead-tunnel");
  struct pollfd polled[4] = {{pump->tun_fd, POLLIN, 0},
                             {pump->udp_fds[0], POLLIN, 0},
                             {pump->udp_fds[1], POLLIN, 0},
                             {pump->wake_fd, POLLIN, 0}};
  while (!atomic_load(&pump->stopping)) {
    if (poll(polled, 4, -1) < 0 && errno != EINTR) break;
    pthread_mutex_lock(&pump->mutex);
    bool is_there = polled[0].revents == 0 || pump_out(pump);
    for (size_t i = 1; i <= 2; i++) {
      if (polled[i].revents != 0) pump_in(pump, polled[i].fd);
    }
    pthread_mutex_unlock(&pump->mutex);
    if (!is_there) break;
  }
  atomic_store(&pump->ended, true);
  return NULL;
}

// --- on Node's thread ---

static void free_pump(struct pump *pump) {
  if (pump->wake_fd >= 0) close(pump->wake_fd);
  pthread_mutex_destroy(&pump->mutex);
  free(pump->table.routes);
  free(pump->table.senders);
  free(pump);
}

struct pump *pump_start(int tun_fd, int udp4_fd, int udp6_fd, struct failure *failure) {
  struct pump *pump = calloc(1, sizeof *pump);  // pages that are never used cost nothing
  *failure = (struct failure){ENOMEM, "malloc"};
  if (pump == NULL) return NULL;
  pthread_mutex_init(&pump->mutex, NULL);
  pump->tun_fd = tun_fd;
  pump->udp_fds[0] = udp4_fd;
  pump->udp_fds[1] = udp6_fd;
  for (size_t i = 0; i < 2; i++) {
    int on = 1;  // an older kernel gives and takes datagrams one by one
    if (pump->udp_fds[i] >= 0) setsockopt(pump->udp_fds[i], IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    pump->cuts[i] = true;
  }
  pump->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (pump->wake_fd < 0) {
    fail(failure, "eventfd");
    free_pump(pump);
    return NULL;
  }
  int error = start_thread(&pump->thread, work, pump);
  if (error == 0) return pump;
  *failure = (struct failure){error, "pthread_create"};
  free_pump(pump);
  return NULL;
}

void pump_set_table(struct pump *pump, struct table table) {
  pthread_mutex_lock(&pump->mutex);
  struct table old = pump->table;
  pump->table = table;
  pthread_mutex_unlock(&pump->mutex);
  free(old.routes);
  free(old.senders);
}

const struct counters *pump_counters(const struct pump *pump) { return &pump->counters; }

bool pump_runs(struct pump *pump) { return !atomic_load(&pump->ended); }

void pump_stop(struct pump *pump) {
  atomic_store(&pump->stopping, true);
  eventfd_write(pump->wake_fd, 1);
  pthread_join(pump->thread, NULL);
  free_pump(pump);
}
