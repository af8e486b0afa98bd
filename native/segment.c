// TCP segments cut and joined, as network cards do it. Between the node and its peers go packets of the path's MTU;
// between this process and the kernel go packets of up to 64 KiB, because the price of each crossing is the same.
#include "tunnel.h"

#include <string.h>

#define TCP_FIN 0x01
#define TCP_PUSH 0x08
#define TCP_ACK 0x10
#define TCP_CWR 0x80
#define TCP_CHECKSUM_AT 16

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }
static void put16(uint8_t *at, uint16_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}
static void put32(uint8_t *at, uint32_t value) {
  put16(at, (uint16_t)(value >> 16));
  put16(at + 2, (uint16_t)value);
}

// RFC 1071, in the order of the bytes in memory: the sum of an even number of bytes more may be added to it.
static uint64_t sum_bytes(const uint8_t *bytes, size_t length, uint64_t sum) {
  uint64_t low = 0, high = 0;
  for (; length >= 16; bytes += 16, length -= 16) {
    uint64_t a, b;
    memcpy(&a, bytes, 8);
    memcpy(&b, bytes + 8, 8);
    low += (a & 0xffffffff) + (b & 0xffffffff);
    high += (a >> 32) + (b >> 32);
  }
  sum += (low & 0xffffffff) + (low >> 32) + (high & 0xffffffff) + (high >> 32);
  for (; length >= 2; bytes += 2, length -= 2) {
    uint16_t word;
    memcpy(&word, bytes, 2);
    sum += word;
  }
  if (length == 1) sum += *bytes;  // little-endian: the odd byte is the lower one
  return sum;
}

static uint16_t fold(uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)sum;
}

static void store_sum(uint8_t *at, uint16_t value) { memcpy(at, &value, 2); }

int ip_version(const uint8_t *packet, size_t length) {
  int version = length >= 20 ? packet[0] >> 4 : 0;
  if (version == 4) {
    size_t header = (size_t)(packet[0] & 15) * 4, total = get16(packet + 2);
    return header >= 20 && total >= header && total <= length ? 4 : 0;
  }
  return version == 6 && length >= 40 && 40u + get16(packet + 4) <= length ? 6 : 0;
}

void destination_of(const uint8_t *packet, uint8_t address[16]) {
  static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
  if (packet[0] >> 4 == 6) {
    memcpy(address, packet + 24, 16);
  } else {
    memcpy(address, mapped, sizeof mapped);
    memcpy(address + 12, packet + 16, 4);
  }
}

bool complete_checksum(const struct virtio_net_hdr *header, uint8_t *packet, size_t length) {
  if ((header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0) return true;
  size_t start = header->csum_start, at = start + header->csum_offset;
  if (start >= length || at + 2 > length) return false;
  uint16_t sum = (uint16_t)~fold(sum_bytes(packet + start, length - start, 0));
  store_sum(packet + at, sum == 0 ? 0xffff : sum);  // 0 says "none" in UDP, and both are the same number
  return true;
}

// The sum of the pseudo header of RFC 9293 for so many bytes of TCP.
static uint64_t pseudo_sum(const uint8_t *packet, size_t tcp_bytes) {
  const uint8_t length_and_protocol[8] = {(uint8_t)(tcp_bytes >> 24), (uint8_t)(tcp_bytes >> 16),
                                          (uint8_t)(tcp_bytes >> 8),  (uint8_t)tcp_bytes,
                                          0, 0, 0, IPPROTO_TCP};
  uint64_t sum = sum_bytes(length_and_protocol, sizeof length_and_protocol, 0);
  return packet[0] >> 4 == 4 ? sum_bytes(packet + 12, 8, sum) : sum_bytes(packet + 8, 32, sum);
}

// Bytes of IP and of all headers of a TCP packet without extension headers or fragments; false for all others.
static bool tcp_headers(const uint8_t *packet, size_t length, size_t *ip_bytes, size_t *header_bytes) {
  bool is4 = packet[0] >> 4 == 4;
  size_t ip = is4 ? (size_t)(packet[0] & 15) * 4 : 40;
  if ((is4 ? packet[9] : packet[6]) != IPPROTO_TCP || length < ip + 20) return false;
  if (is4 && (get16(packet + 6) & 0x3fff) != 0) return false;
  size_t all = ip + (size_t)(packet[ip + 12] >> 4) * 4;
  if (all < ip + 20 || all > length || all > MAX_HEADER_BYTES) return false;
  *ip_bytes = ip;
  *header_bytes = all;
  return true;
}

static void set_ip_length(uint8_t *packet, size_t ip_bytes, size_t length, uint16_t id_step) {
  if (packet[0] >> 4 == 6) {
    put16(packet + 4, (uint16_t)(length - 40));
    return;
  }
  put16(packet + 2, (uint16_t)length);
  put16(packet + 4, (uint16_t)(get16(packet + 4) + id_step));
  put16(packet + 10, 0);
  store_sum(packet + 10, (uint16_t)~fold(sum_bytes(packet, ip_bytes, 0)));
}

bool cut_packet(const struct virtio_net_hdr *header, const uint8_t *packet, size_t length, struct cut *cut) {
  size_t ip_bytes, header_bytes, step = header->gso_size;
  if (step == 0 || !tcp_headers(packet, length, &ip_bytes, &header_bytes)) return false;
  size_t payload = length - header_bytes;
  cut->size = header_bytes + step;
  if (cut->size > MAX_SEND_BYTES) return false;
  cut->count = cut->segments = 0;
  for (size_t total = 0; cut->at < payload && cut->segments < MAX_SEGMENTS; cut->segments++) {
    size_t bytes = payload - cut->at < step ? payload - cut->at : step;
    if (total + header_bytes + bytes > MAX_SEND_BYTES) break;
    bool is_first = cut->at == 0, is_last = cut->at + bytes == payload;
    uint8_t *own = cut->headers[cut->segments], *tcp = own + ip_bytes;
    memcpy(own, packet, header_bytes);
    set_ip_length(own, ip_bytes, header_bytes + bytes, (uint16_t)(cut->at / step));
    put32(tcp + 4, get32(tcp + 4) + (uint32_t)cut->at);
    if (!is_last) tcp[13] &= (uint8_t)~(TCP_FIN | TCP_PUSH);
    if (!is_first) tcp[13] &= (uint8_t)~TCP_CWR;
    put16(tcp + TCP_CHECKSUM_AT, 0);
    const uint8_t *data = packet + header_bytes + cut->at;
    uint64_t sum = pseudo_sum(own, header_bytes - ip_bytes + bytes);
    sum = sum_bytes(tcp, header_bytes - ip_bytes, sum);
    store_sum(tcp + TCP_CHECKSUM_AT, (uint16_t)~fold(sum_bytes(data, bytes, sum)));
    cut->parts[cut->count++] = (struct iovec){own, header_bytes};
    cut->parts[cut->count++] = (struct iovec){(void *)data, bytes};
    cut->at += bytes;
    total += header_bytes + bytes;
  }
  cut->done = cut->at >= payload;
  return cut->segments > 0;
}

// Whether the packet may be one of a run: plain data, and every checksum right, because joined ones are not looked at
// any more.
static bool is_joinable(const uint8_t *packet, size_t length, size_t *ip_bytes, size_t *header_bytes) {
  if (!tcp_headers(packet, length, ip_bytes, header_bytes) || *header_bytes == length) return false;
  if (packet[0] >> 4 == 4 ? *ip_bytes != 20 || get16(packet + 2) != length || fold(sum_bytes(packet, 20, 0)) != 0xffff
                          : 40u + get16(packet + 4) != length) {
    return false;
  }
  const uint8_t *tcp = packet + *ip_bytes;
  if ((tcp[13] & ~TCP_PUSH) != TCP_ACK) return false;
  size_t tcp_bytes = length - *ip_bytes;
  return fold(sum_bytes(tcp, tcp_bytes, pseudo_sum(packet, tcp_bytes))) == 0xffff;
}

void begin_run(struct run *run, const uint8_t *packet, size_t length) {
  memset(&run->header, 0, sizeof run->header);
  run->count = 1;
  run->closed = true;
  run->parts[0] = (struct iovec){&run->header, sizeof run->header};
  run->parts[1] = (struct iovec){(void *)packet, length};
  if (!is_joinable(packet, length, &run->ip_bytes, &run->header_bytes)) return;
  memcpy(run->first, packet, run->header_bytes);
  run->segment_bytes = run->payload_bytes = length - run->header_bytes;
  run->next_sequence = get32(packet + run->ip_bytes + 4) + (uint32_t)run->segment_bytes;
  run->closed = (packet[run->ip_bytes + 13] & TCP_PUSH) != 0;
}

// Equal but for what differs from segment to segment: length, id and checksum of IPv4; length of IPv6; sequence
// number, PSH and checksum of TCP.
static bool same_headers(const struct run *run, const uint8_t *packet) {
  const uint8_t *a = run->first, *b = packet, *x = a + run->ip_bytes, *y = b + run->ip_bytes;
  bool same_ip = a[0] >> 4 == 4 ? memcmp(a, b, 2) == 0 && memcmp(a + 6, b + 6, 4) == 0 && memcmp(a + 12, b + 12, 8) == 0
                                : memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 34) == 0;
  return same_ip && memcmp(x, y, 4) == 0 && memcmp(x + 8, y + 8, 5) == 0 && memcmp(x + 14, y + 14, 2) == 0 &&
         memcmp(x + 18, y + 18, run->header_bytes - run->ip_bytes - 18) == 0;
}

bool extend_run(struct run *run, const uint8_t *packet, size_t length) {
  size_t ip_bytes, header_bytes;
  if (run->closed || run->count == MAX_SEGMENTS || packet[0] >> 4 != run->first[0] >> 4) return false;
  if (!is_joinable(packet, length, &ip_bytes, &header_bytes)) return false;
  size_t bytes = length - header_bytes;
  if (ip_bytes != run->ip_bytes || header_bytes != run->header_bytes || bytes > run->segment_bytes ||
      header_bytes + run->payload_bytes + bytes >= PACKET_BYTES ||
      get32(packet + ip_bytes + 4) != run->next_sequence || !same_headers(run, packet)) {
    return false;
  }
  if (run->count == 1) {  // now the headers are the copy, and the first payload a part of its own
    uint8_t *first = run->parts[1].iov_base;
    run->parts[2] = (struct iovec){first + header_bytes, run->segment_bytes};
    run->parts[1] = (struct iovec){run->first, header_bytes};
  }
  run->count++;
  run->parts[1 + run->count] = (struct iovec){(void *)(packet + header_bytes), bytes};
  run->payload_bytes += bytes;
  run->next_sequence += (uint32_t)bytes;
  bool is_push = (packet[ip_bytes + 13] & TCP_PUSH) != 0;
  if (is_push) run->first[ip_bytes + 13] |= TCP_PUSH;
  run->closed = is_push || bytes < run->segment_bytes;
  return true;
}

size_t finish_run(struct run *run) {
  if (run->count == 1) return 2;
  bool is4 = run->first[0] >> 4 == 4;
  size_t length = run->header_bytes + run->payload_bytes;
  set_ip_length(run->first, run->ip_bytes, length, 0);
  // The kernel goes on from the sum of the pseudo header.
  store_sum(run->first + run->ip_bytes + TCP_CHECKSUM_AT, fold(pseudo_sum(run->first, length - run->ip_bytes)));
  run->header = (struct virtio_net_hdr){
      .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
      .gso_type = is4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6,
      .hdr_len = (uint16_t)run->header_bytes,
      .gso_size = (uint16_t)run->segment_bytes,
      .csum_start = (uint16_t)run->ip_bytes,
      .csum_offset = TCP_CHECKSUM_AT,
  };
  return 2 + run->count;
}
