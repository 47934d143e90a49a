/*
 * echo - the floor: a server that reads whatever comes and sends one constant reply.
 *
 *     echo HOST:PORT|/PATH REPLY
 *
 * One process, one thread, epoll.  It parses nothing, so that no server that does its work can be
 * faster by the same means.  Each read counts as one request.  Ends with a signal; HOST is an
 * IPv4 address.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listen_at(char *where)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	struct sockaddr_in host = { .sin_family = AF_INET };
	int local = where[0] == '/', on = 1;
	int fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
	struct sockaddr *addr = local ? (struct sockaddr *)&path : (struct sockaddr *)&host;
	char *colon = strrchr(where, ':');

	if (local) {
		snprintf(path.sun_path, sizeof path.sun_path, "%s", where);
		unlink(where);
	} else {
		if (!colon)
			errx(64, "%s: neither HOST:PORT nor /PATH", where);
		*colon = 0;
		host.sin_port = htons(atoi(colon + 1));
		if (inet_pton(AF_INET, where, &host.sin_addr) != 1)
			errx(64, "%s: not an IPv4 address", where);
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, addr, local ? sizeof path : sizeof host) || listen(fd, 1024))
		err(1, "%s", where);
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event ev[256], add = { .events = EPOLLIN };
	char reply[8192], request[16384];
	int ep = epoll_create1(0), listener, size;

	if (argc != 3)
		errx(64, "usage: echo HOST:PORT|/PATH REPLY");
	size = snprintf(reply, sizeof reply, "%zu:%s,", strlen(argv[2]), argv[2]);
	if (size >= (int)sizeof reply)
		errx(64, "REPLY is longer than 8,000 bytes");
	add.data.fd = listener = listen_at(argv[1]);
	epoll_ctl(ep, EPOLL_CTL_ADD, listener, &add);
	for (;;) {
		int n = epoll_wait(ep, ev, 256, -1);
		for (int i = 0; i < n; i++) {
			int fd = ev[i].data.fd;
			if (fd == listener) {
				add.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
				if (add.data.fd >= 0)
					epoll_ctl(ep, EPOLL_CTL_ADD, add.data.fd, &add);
			} else if (recv(fd, request, sizeof request, 0) <= 0
				   || send(fd, reply, size, MSG_NOSIGNAL) != size) {
				close(fd);
			}
		}
	}
}
