// What the files of the tunnel pump share: packets between a TUN device and UDP sockets, without a header of its own.
#ifndef FAIRLEAD_TUNNEL_H
#define FAIRLEAD_TUNNEL_H

#include "addon.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/uio.h>

// Packets of one look at the device, and datagrams of one recvmmsg.
#define BATCH 16
// The largest IP packet, and room for the header in front of it.
#define PACKET_BYTES 65536
// The kernel cuts one send into at most this many datagrams (UDP_MAX_SEGMENTS before Linux 6.9).
#define MAX_SEGMENTS 64
// The payload of one send, all of its datagrams together.
#define MAX_SEND_BYTES 65000
// IP and TCP headers with all options that there may be.
#define MAX_HEADER_BYTES 120

// Addresses are 16 bytes, IPv4 as ::ffff:0:0/96, so that both families are ordered by memcmp.
struct route {
  uint8_t first[16], last[16], endpoint[16];
  uint8_t port[2];  // network order
  uint8_t unused[2];
};

struct table {
  struct route *routes;
  size_t route_count;
  uint8_t (*senders)[16];
  size_t sender_count;
};

struct counters {
  atomic_ullong sent, received;         // inner packets
  atomic_ullong no_route, bad_sender;   // dropped
  atomic_ullong malformed, lost;        // dropped: not IP; not taken by the kernel
};

// A packet cut into datagrams of `size` bytes (the last may be shorter): parts[0..count] are their bytes in order.
struct cut {
  struct iovec parts[2 * MAX_SEGMENTS];
  uint8_t headers[MAX_SEGMENTS][MAX_HEADER_BYTES];
  size_t count, segments, size;
  bool done;         // nothing is left of the packet
  size_t at;         // payload already cut
};

// Segments of one TCP connection that follow each other, to be given to the kernel as one packet.
struct run {
  struct virtio_net_hdr header;
  uint8_t first[MAX_HEADER_BYTES];  // a copy of the first segment's headers
  size_t header_bytes, ip_bytes;
  struct iovec parts[2 + MAX_SEGMENTS];
  size_t count;  // segments
  size_t segment_bytes, payload_bytes;
  uint32_t next_sequence;
  bool closed;
};

// --- segment.c: pure ---
// The packet's version, or 0 when it is no whole IP packet.
int ip_version(const uint8_t *packet, size_t length);
void destination_of(const uint8_t *packet, uint8_t address[16]);
// Fills in the checksum that the kernel left to the device. False: the header does not fit the packet.
bool complete_checksum(const struct virtio_net_hdr *header, uint8_t *packet, size_t length);
// The next send of a TCP packet that the kernel left uncut. False: not what it says.
bool cut_packet(const struct virtio_net_hdr *header, const uint8_t *packet, size_t length, struct cut *cut);
// Begins a run with this packet, or adds it. False: it is not the next segment of this run.
void begin_run(struct run *run, const uint8_t *packet, size_t length);
bool extend_run(struct run *run, const uint8_t *packet, size_t length);
// Makes the headers of the run's packet what the kernel expects, and counts its parts.
size_t finish_run(struct run *run);

// --- pump.c ---
struct pump;
struct pump *pump_start(int tun_fd, int udp4_fd, int udp6_fd, struct failure *failure);
// Takes what the table holds.
void pump_set_table(struct pump *pump, struct table table);
const struct counters *pump_counters(const struct pump *pump);
// Whether the thread still carries packets: it ends when the device is gone.
bool pump_runs(struct pump *pump);
void pump_stop(struct pump *pump);

#endif
