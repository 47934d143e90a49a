/*
 * load - ask a socketmap server for as long as told, check every reply, print one JSON line.
 *
 *     load [options] HOST:PORT|/PATH
 *
 *     -c N        connections (1); each has one request outstanding, as Postfix does
 *     -t SECONDS  how long to measure (2), or
 *     -n N        how many requests to send in all
 *     -r N        requests a second, all connections together, instead of as many as are answered
 *     -p PATTERN  the keys: "%" stands for S, S+1, S+2 ... (d%.example), or
 *     -f FILE     one key a line
 *     -k K        how many keys PATTERN makes (1)
 *     -s S        the first of them (0)
 *     -z          keys by Zipf's law (exponent 1) instead of in turn
 *     -m MAP      the map name (postfix)
 *     -x PREFIX   what a reply must begin with; "%" stands for the key asked for ("OK ")
 *
 * Without -r a connection asks again as soon as it is answered, and a server that stands still for a
 * second delays one request a connection.  With -r requests fall due by the clock, as mails do: each
 * goes out on the connection that has rested longest, its latency counts from when it was due, and
 * what is still unanswered at the end counts as well.
 *
 * With -t the clock starts when every connection has been answered once, so that accepting is not
 * measured.  A reply counts as wrong if it is no netstring, if it does not begin with PREFIX, or if
 * more than one reply comes for a request.  The percentiles are upper ends of buckets 3% wide;
 * "max_us" and "unanswered_us" (the oldest request still open at the end) are exact.
 * Exit status: 0; 1 if a reply was wrong or a connection was lost; 64 usage.
 *
 * One thread, so that a server on a machine of two cores keeps one for itself; "generator_cpu" says
 * how much of its own core was in use.  Near 1.00 the generator may be what limits the figure.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_REPLY = 16384,
	MAX_KEY = 255,
	SEQUENCE = 1 << 20, /* keys drawn beforehand, then used in a circle */
	GREETING_SECONDS = 20, /* for every connection to be answered once */
	SUB = 32, /* buckets in each power of two */
};

struct key {
	char *request, *expected;
	size_t request_size, expected_size;
};

struct connection {
	int fd; /* -1: lost */
	int open; /* a request is outstanding */
	struct key *asked;
	uint64_t since;
	size_t have;
	char reply[MAX_REPLY];
};

static struct key *keys;
static size_t key_count, capacity;
static uint32_t sequence[SEQUENCE];
static int zipf;
static uint64_t histogram[64 * SUB];
static uint64_t sent, answers, wrong, lost, longest;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double cpu_seconds(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return r.ru_utime.tv_sec + r.ru_stime.tv_sec
	       + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* -- the histogram: SUB buckets for each power of two ------------------------------------------ */

static size_t bucket(uint64_t ns)
{
	int shift;

	if (ns < SUB)
		return ns;
	shift = 63 - __builtin_clzll(ns) - 5;
	return (size_t)(shift + 1) * SUB + ((ns >> shift) & (SUB - 1));
}

static double bucket_end_us(size_t i)
{
	if (i < SUB)
		return (i + 1) / 1e3;
	return (double)((uint64_t)(SUB + i % SUB + 1) << (i / SUB - 1)) / 1e3;
}

static double percentile_us(double share)
{
	uint64_t below = 0, total = 0;

	for (size_t i = 0; i < 64 * SUB; i++)
		total += histogram[i];
	for (size_t i = 0; i < 64 * SUB && total; i++) {
		below += histogram[i];
		if (below >= share * total)
			return bucket_end_us(i);
	}
	return 0;
}

/* -- the keys ---------------------------------------------------------------------------------- */

static char *substitute(const char *pattern, const char *value)
{
	const char *percent = strchr(pattern, '%');
	char *text;

	if (!percent)
		return strdup(pattern);
	if (asprintf(&text, "%.*s%s%s", (int)(percent - pattern), pattern, value, percent + 1) < 0)
		err(1, "asprintf");
	return text;
}

static void add_key(const char *map, const char *name, const char *prefix)
{
	struct key *k;
	int size;

	if (strlen(name) > MAX_KEY)
		errx(64, "key longer than %d bytes: %s", MAX_KEY, name);
	if (key_count == capacity) {
		capacity = capacity ? 2 * capacity : 64;
		keys = realloc(keys, capacity * sizeof *keys);
		if (!keys)
			err(1, "realloc");
	}
	k = &keys[key_count++];
	size = asprintf(&k->request, "%zu:%s %s,", strlen(map) + 1 + strlen(name), map, name);
	if (size < 0)
		err(1, "asprintf");
	k->request_size = size;
	k->expected = substitute(prefix, name);
	k->expected_size = strlen(k->expected);
}

static void read_keys(const char *file, const char *map, const char *prefix)
{
	FILE *f = fopen(file, "r");
	char *line = NULL;
	size_t room = 0;

	if (!f)
		err(1, "%s", file);
	while (getline(&line, &room, f) > 0) {
		line[strcspn(line, "\r\n")] = 0;
		if (line[0])
			add_key(map, line, prefix);
	}
	free(line);
	fclose(f);
}

static void draw_sequence(void)
{
	double total = 0, sum, *upto = calloc(key_count, sizeof *upto);
	size_t low, high, middle;

	if (!upto)
		err(1, "calloc");
	for (size_t i = 0; i < key_count; i++)
		upto[i] = total += 1.0 / (i + 1);
	srand48(8461);
	for (size_t i = 0; i < SEQUENCE; i++) {
		sum = drand48() * total;
		for (low = 0, high = key_count - 1; low < high;) {
			middle = (low + high) / 2;
			if (upto[middle] > sum)
				high = middle;
			else
				low = middle + 1;
		}
		sequence[i] = low;
	}
	free(upto);
}

/* -- the connections --------------------------------------------------------------------------- */

static int connect_to(const char *where)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	struct sockaddr_in host = { .sin_family = AF_INET };
	int local = where[0] == '/', on = 1, fd;
	const char *colon = strrchr(where, ':');
	char name[64];

	if (local) {
		snprintf(path.sun_path, sizeof path.sun_path, "%s", where);
	} else {
		if (!colon)
			errx(64, "%s: neither HOST:PORT nor /PATH", where);
		snprintf(name, sizeof name, "%.*s", (int)(colon - where), where);
		host.sin_port = htons(atoi(colon + 1));
		if (inet_pton(AF_INET, name, &host.sin_addr) != 1)
			errx(64, "%s: not an IPv4 address", name);
	}
	fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
	if (fd < 0)
		err(1, "socket");
	if (local ? connect(fd, (struct sockaddr *)&path, sizeof path)
		  : connect(fd, (struct sockaddr *)&host, sizeof host))
		err(1, "%s", where);
	if (!local)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void lose(struct connection *c, const char *why)
{
	if (!lost++)
		warnx("connection lost: %s", why);
	close(c->fd);
	c->fd = -1;
	c->open = 0;
}

static void ask(struct connection *c, uint64_t now)
{
	c->asked = &keys[zipf ? sequence[sent % SEQUENCE] : sent % key_count];
	sent++;
	c->since = now;
	c->have = 0;
	c->open = 1;
	if (send(c->fd, c->asked->request, c->asked->request_size, MSG_NOSIGNAL)
	    != (ssize_t)c->asked->request_size)
		lose(c, "the server does not read");
}

/* 1: one whole netstring is there; 0: not yet; -1: it can become none. */
static int whole(const struct connection *c, size_t *start, size_t *size)
{
	size_t i, n = 0;

	for (i = 0; i < c->have && c->reply[i] >= '0' && c->reply[i] <= '9'; i++)
		n = n * 10 + (c->reply[i] - '0');
	if (i > 5 || n > MAX_REPLY - 8)
		return -1;
	if (i == c->have)
		return 0;
	if (i == 0 || c->reply[i] != ':')
		return -1;
	*start = i + 1;
	*size = n;
	if (c->have < *start + n + 1)
		return 0;
	return c->have == *start + n + 1 && c->reply[*start + n] == ',' ? 1 : -1;
}

/* Whether the outstanding request has now been answered, rightly or wrongly. */
static int answered(struct connection *c)
{
	size_t start = 0, size = 0;
	ssize_t got = recv(c->fd, c->reply + c->have, sizeof c->reply - c->have, 0);
	int state;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0) {
		lose(c, got ? strerror(errno) : "closed by the server");
		return 0;
	}
	c->have += got;
	if (!c->open) {
		lose(c, "the server spoke without being asked");
		return 0;
	}
	state = whole(c, &start, &size);
	if (state == 0)
		return 0;
	answers++;
	c->open = 0;
	if (state < 0 || size < c->asked->expected_size
	    || memcmp(c->reply + start, c->asked->expected, c->asked->expected_size)) {
		if (!wrong++)
			warnx("wrong reply to \"%s\": %.*s", c->asked->request,
			      (int)(c->have > 200 ? 200 : c->have), c->reply);
		if (state < 0)
			lose(c, "replies are out of step");
	}
	return 1;
}

/* -- the run ----------------------------------------------------------------------------------- */

/* Everybody asks once and waits until everybody has been answered. */
static void greet(int ep, struct connection *all, size_t count)
{
	struct epoll_event ev[256];
	uint64_t now = now_ns(), deadline = now + GREETING_SECONDS * 1000000000ull;
	size_t done = 0;
	int n;

	for (size_t i = 0; i < count; i++)
		ask(&all[i], now);
	while (done < count && !lost && now_ns() < deadline) {
		n = epoll_wait(ep, ev, 256, 100);
		for (int i = 0; i < n; i++)
			done += answered(ev[i].data.ptr);
	}
	if (done < count)
		errx(1, "%zu of %zu connections answered in %d s", done, count, GREETING_SECONDS);
}

static void record(uint64_t took)
{
	histogram[bucket(took)]++;
	if (took > longest)
		longest = took;
}

/*
 * Ask until `end` (ns, 0: for ever) or until `limit` requests (0: any number) are answered.  With a
 * `pace` (ns from one request to the next, 0: none) connections rest in a ring until one is due.
 */
static void measure(int ep, struct connection *all, size_t count, uint64_t end, uint64_t limit,
		    uint64_t pace)
{
	struct connection **rest = calloc(count, sizeof *rest);
	size_t first = 0, resting = 0;
	struct epoll_event ev[256];
	uint64_t now = now_ns(), due = now;
	int n;

	if (!rest)
		err(1, "calloc");
	for (size_t i = 0; i < count; i++) {
		if (pace)
			rest[resting++] = &all[i];
		else if (!limit || sent < limit)
			ask(&all[i], now);
	}
	while (lost < count && (!limit || answers < limit) && (!end || now < end)) {
		uint64_t wait = 10000000;
		struct timespec timeout = { 0 };

		while (pace && resting && due <= now && (!limit || sent < limit)) {
			struct connection *c = rest[first];

			first = (first + 1) % count;
			resting--;
			if (c->fd < 0)
				continue;
			ask(c, due);
			due += pace;
		}
		if (pace && resting && due < now + wait)
			wait = due > now ? due - now : 0;
		timeout.tv_nsec = wait;
		n = epoll_pwait2(ep, ev, 256, &timeout, NULL);
		now = now_ns();
		for (int i = 0; i < n; i++) {
			struct connection *c = ev[i].data.ptr;

			if (!answered(c))
				continue;
			now = now_ns();
			record(now - c->since);
			if (c->fd < 0)
				continue;
			if (pace)
				rest[(first + resting++) % count] = c;
			else if (!limit || sent < limit)
				ask(c, now);
		}
	}
	for (size_t i = 0; pace && i < count; i++)
		if (all[i].open)
			record(now - all[i].since);
	for (; pace && end && due < end; due += pace)
		record(end - due);
	free(rest);
}

static double number(const char *text, double least)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= least))
		errx(64, "%s: not a number of at least %g", text, least);
	return value;
}

int main(int argc, char **argv)
{
	const char *pattern = NULL, *file = NULL, *map = "postfix", *prefix = "OK ";
	size_t count = 1, patterns = 1, first_pattern = 0;
	uint64_t limit = 0, begin, before, now, measured, oldest = 0;
	double seconds = 2, rate = 0, took, cpu;
	int option, ep = epoll_create1(0);
	struct connection *all;
	struct rlimit files;
	char digits[32];

	while ((option = getopt(argc, argv, "c:t:n:r:p:f:k:s:m:x:z")) != -1) {
		switch (option) {
		case 'c': count = number(optarg, 1); break;
		case 't': seconds = number(optarg, 0.001); break;
		case 'n': limit = number(optarg, 1); break;
		case 'r': rate = number(optarg, 1); break;
		case 'p': pattern = optarg; break;
		case 'f': file = optarg; break;
		case 'k': patterns = number(optarg, 1); break;
		case 's': first_pattern = number(optarg, 0); break;
		case 'm': map = optarg; break;
		case 'x': prefix = optarg; break;
		case 'z': zipf = 1; break;
		default: return 64;
		}
	}
	if (optind != argc - 1 || !pattern == !file)
		errx(64, "usage: load [options] -p PATTERN|-f FILE HOST:PORT|/PATH");
	if (file)
		read_keys(file, map, prefix);
	for (size_t i = 0; pattern && i < patterns; i++) {
		char *name;

		snprintf(digits, sizeof digits, "%zu", first_pattern + i);
		name = substitute(pattern, digits);
		add_key(map, name, prefix);
		free(name);
	}
	if (!key_count)
		errx(64, "no keys");
	if (zipf)
		draw_sequence();

	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	all = calloc(count, sizeof *all);
	if (!all)
		err(1, "calloc");
	for (size_t i = 0; i < count; i++) {
		struct epoll_event add = { .events = EPOLLIN, .data.ptr = &all[i] };

		all[i].fd = connect_to(argv[optind]);
		if (epoll_ctl(ep, EPOLL_CTL_ADD, all[i].fd, &add))
			err(1, "epoll_ctl");
	}

	if (!limit)
		greet(ep, all, count);
	before = answers;
	cpu = cpu_seconds();
	begin = now_ns();
	measure(ep, all, count, limit ? 0 : begin + (uint64_t)(seconds * 1e9), limit,
		rate ? 1e9 / rate : 0);
	now = now_ns();
	cpu = cpu_seconds() - cpu;
	took = (now - begin) / 1e9;
	measured = answers - before;
	for (size_t i = 0; i < count; i++)
		if (all[i].open && now - all[i].since > oldest)
			oldest = now - all[i].since;

	printf("{\"connections\": %zu, \"seconds\": %.3f, \"answers\": %lu, \"measured\": %lu, "
	       "\"per_second\": %.0f, \"wrong\": %lu, \"lost\": %lu, \"p50_us\": %.1f, "
	       "\"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, "
	       "\"unanswered_us\": %.1f, \"generator_cpu\": %.2f, \"histogram_us\": [",
	       count, took, answers, measured, measured / took, wrong, lost,
	       percentile_us(0.5), percentile_us(0.9),
	       percentile_us(0.99), percentile_us(0.999), longest / 1e3,
	       oldest / 1e3, cpu / took);
	for (size_t i = 0, first = 1; i < 64 * SUB; i++) {
		if (histogram[i]) {
			printf("%s[%.1f, %lu]", first ? "" : ", ", bucket_end_us(i), histogram[i]);
			first = 0;
		}
	}
	printf("]}\n");
	return wrong || lost ? 1 : 0;
}
