/*
 * SCTP, which Node has not. A server tells each client its name and whom it sees; a client prints that, or the error.
 *
 * usage: sctp serve PORT NAME | sctp ask ADDRESS PORT SECONDS
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define TEXT_MAX 256

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

static int serve(int port, const char *name)
{
	struct sockaddr_in6 own = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int server = socket(AF_INET6, SOCK_STREAM, IPPROTO_SCTP);

	if (server < 0)
		return fail("socket");
	if (bind(server, (struct sockaddr *)&own, sizeof(own)) < 0 || listen(server, 64) < 0)
		return fail("listen");
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		struct sockaddr_in6 peer;
		socklen_t size = sizeof(peer);
		char seen[INET6_ADDRSTRLEN], text[TEXT_MAX];
		int client = accept(server, (struct sockaddr *)&peer, &size);

		if (client < 0)
			return fail("accept");
		inet_ntop(AF_INET6, &peer.sin6_addr, seen, sizeof(seen));
		snprintf(text, sizeof(text), "%s saw %s\n", name, strncmp(seen, "::ffff:", 7) ? seen : seen + 7);
		if (write(client, text, strlen(text)) < 0)
			fail("write");
		close(client);
	}
}

static int ask(const char *host, int port, int seconds)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct timeval limit = { .tv_sec = seconds };
	int is_v6 = strchr(host, ':') != NULL;
	int client = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM, IPPROTO_SCTP);
	char text[TEXT_MAX];
	ssize_t size;

	if (client < 0)
		return fail("socket");
	setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	inet_pton(AF_INET, host, &v4.sin_addr);
	inet_pton(AF_INET6, host, &v6.sin6_addr);
	if (connect(client, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4, is_v6 ? sizeof(v6) : sizeof(v4)) < 0)
		return fail("connect");
	size = read(client, text, sizeof(text));
	if (size < 0)
		return fail("read");
	fwrite(text, 1, size, stdout);
	return 0;
}

int main(int count, char **words)
{
	if (count == 4 && !strcmp(words[1], "serve"))
		return serve(atoi(words[2]), words[3]);
	if (count == 5 && !strcmp(words[1], "ask"))
		return ask(words[2], atoi(words[3]), atoi(words[4]));
	fprintf(stderr, "usage: sctp serve PORT NAME | sctp ask ADDRESS PORT SECONDS\n");
	return 2;
}
