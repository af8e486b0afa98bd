// Connects again and again from one network namespace to a server in another, client and server on one processor, so
// that no wake-up of another one is measured. Built by bench/proxy/connect.ts.
//
// connect CPU SERVER-NAMESPACE SERVER-PORT CLIENT-NAMESPACE ADDRESS PORT COUNT
// Prints the nanoseconds of each connect(). Each connection carries a byte each way and is closed by a reset, so that
// none is left waiting.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 100

static const char *server_namespace;
static int server_port;
static int processor;
static pthread_barrier_t listening;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void enter(const char *path) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  if (sched_setaffinity(0, sizeof set, &set) < 0) die("sched_setaffinity");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) die(path);
  close(fd);
}

static void *serve(void *unused) {
  (void)unused;
  enter(server_namespace);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server_port)};
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
  if (listen(listener, 128) < 0) die("listen");
  pthread_barrier_wait(&listening);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) die("accept");
    char byte;
    if (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) < 0 && errno != ECONNRESET) die("write");
    close(fd);
  }
  return NULL;
}

static long connect_once(const struct sockaddr_in *address) {
  struct timespec start, end;
  struct timeval limit = {.tv_sec = 5};
  struct linger reset = {.l_onoff = 1};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  clock_gettime(CLOCK_MONOTONIC, &start);
  if (connect(fd, (const struct sockaddr *)address, sizeof *address) < 0) die("connect");
  clock_gettime(CLOCK_MONOTONIC, &end);
  char byte = 'x';
  if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) die("echo");
  close(fd);
  return (end.tv_sec - start.tv_sec) * 1000000000L + end.tv_nsec - start.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc != 8) {
    fprintf(stderr, "usage: %s cpu server-namespace server-port client-namespace address port count\n", argv[0]);
    return 2;
  }
  processor = atoi(argv[1]);
  server_namespace = argv[2];
  server_port = atoi(argv[3]);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[6]))};
  if (inet_pton(AF_INET, argv[5], &address.sin_addr) != 1) die(argv[5]);
  pthread_barrier_init(&listening, NULL, 2);
  pthread_t server;
  if (pthread_create(&server, NULL, serve, NULL) != 0) die("pthread_create");
  enter(argv[4]);
  pthread_barrier_wait(&listening);
  for (int i = 0; i < WARM_UP; i++) connect_once(&address);
  for (int left = atoi(argv[7]); left > 0; left--) printf("%ld\n", connect_once(&address));
  return 0;
}
