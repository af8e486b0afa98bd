// What the udp backend is measured against, and with:
//   plain loop DEVICE LOCAL PEER PORT    carries packets between a TUN device and a UDP socket, one in each system
//                                        call, as plainly as that can be done; says "ready"
//   plain sink ADDRESS PORT              takes one TCP connection after the other, and what comes over it
//   plain source ADDRESS PORT MS         sends as much over one TCP connection as goes in so many ms; prints bytes a
//                                        second, as the receiver's end of it confirmed them
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 * 1024];

static void die(const char *what) {
  perror(what);
  exit(1);
}

static struct sockaddr_in address_of(const char *ip, const char *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  inet_pton(AF_INET, ip, &address.sin_addr);
  return address;
}

static int loop(char **arguments) {
  int tun = open("/dev/net/tun", O_RDWR);
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
  strncpy(request.ifr_name, arguments[0], IFNAMSIZ - 1);
  if (tun < 0 || ioctl(tun, TUNSETIFF, &request) != 0) die("tun");
  int udp = socket(AF_INET, SOCK_DGRAM, 0), room = 8 << 20;
  setsockopt(udp, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  setsockopt(udp, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  struct sockaddr_in local = address_of(arguments[1], arguments[3]), peer = address_of(arguments[2], arguments[3]);
  if (bind(udp, (struct sockaddr *)&local, sizeof local) != 0) die("bind");
  puts("ready");
  fflush(stdout);
  struct pollfd polled[2] = {{tun, POLLIN, 0}, {udp, POLLIN, 0}};
  for (;;) {
    if (poll(polled, 2, -1) < 0) die("poll");
    if (polled[0].revents & POLLIN) {
      ssize_t got = read(tun, buffer, sizeof buffer);
      if (got > 0) (void)!sendto(udp, buffer, (size_t)got, 0, (struct sockaddr *)&peer, sizeof peer);
    }
    if (polled[1].revents & POLLIN) {
      ssize_t got = recv(udp, buffer, sizeof buffer, 0);
      if (got > 0) (void)!write(tun, buffer, (size_t)got);
    }
  }
}

static int sink(char **arguments) {
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in local = address_of(arguments[0], arguments[1]);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&local, sizeof local) != 0 || listen(listener, 8) != 0) die("listen");
  puts("ready");
  fflush(stdout);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    unsigned long long total = 0;
    for (ssize_t got; (got = recv(fd, buffer, sizeof buffer, 0)) > 0;) total += (unsigned long long)got;
    (void)!write(fd, &total, sizeof total);
    close(fd);
  }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int source(char **arguments) {
  struct sockaddr_in peer = address_of(arguments[0], arguments[1]);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&peer, sizeof peer) != 0) die("connect");
  double begin = now(), end = begin + atof(arguments[2]) / 1000;
  while (now() < end) {
    if (send(fd, buffer, sizeof buffer, 0) < 0) die("send");
  }
  shutdown(fd, SHUT_WR);
  unsigned long long total;
  if (recv(fd, &total, sizeof total, MSG_WAITALL) != sizeof total) die("recv");
  printf("%.0f\n", (double)total / (now() - begin));
  return 0;
}

int main(int count, char **arguments) {
  if (count == 6 && strcmp(arguments[1], "loop") == 0) return loop(arguments + 2);
  if (count == 4 && strcmp(arguments[1], "sink") == 0) return sink(arguments + 2);
  if (count == 5 && strcmp(arguments[1], "source") == 0) return source(arguments + 2);
  return 2;
}
