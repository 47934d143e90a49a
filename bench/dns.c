/*
 * dns - a name server that costs next to nothing, for the domains of world.py.
 *
 *     dns [HOSTS] < a bound UDP socket
 *
 *     _mta-sts.NAME.ZONE.test    TXT  "v=STSv1; id=1"     mta-sts.NAME.ZONE.test  A  127.0.0.N
 *
 * NAME is any one label, and ZONE the Nth of good, hanging, names and chunks.  With HOSTS, 1 to 9:
 *
 *     NAME.good.test               MX    HOSTS of them, 0.NAME.good.test and so on
 *     N.NAME.good.test             A     127.0.0.1
 *     _25._tcp.N.NAME.good.test    TLSA  3 1 1 0000...
 *
 * Another type of these has no data, any other name does not exist; both come with the SOA that says
 * for how long (RFC 2308, section 3).  Answers are made from the question alone, so a million domains
 * cost what one does.  With HOSTS all are said to be validated (AD).  Ends with a signal.
 */
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <netinet/in.h>

enum { HEADER = 12, A = 1, MX = 15, TXT = 16, TLSA = 52, OPT_SIZE = 11 };

/* What follows the question: name (a pointer to the question), type, class, TTL, size, data. */
#define RECORD(type) "\xc0\x0c\0" type "\0\1\0\0\x0e\x10"
static const char text[] = RECORD("\x10") "\0\x0e\x0dv=STSv1; id=1";
static char address[] = RECORD("\1") "\0\4\x7f\0\0\0";
static const char tlsa[3 + 9 + 35] = RECORD("\x34") "\0\x23\3\1\1";
static const char *const zones[] = { "\4good", "\7hanging", "\5names", "\6chunks" };
static const char soa[] = "\4test\0\0\6\0\1\0\0\x0e\x10\0\x16\0\0\0\0\0\1"
			  "\0\0\x0e\x10\0\0\x0e\x10\0\0\x0e\x10\0\0\x0e\x10";
/* EDNS version 0, 1,232 bytes (RFC 6891, section 6.1.2), for who speaks it. */
static const char opt[OPT_SIZE] = "\0\0\x29\x04\xd0\0\0\0\0\0\0";

/* Whether the name that starts at `label` and is `size` bytes long is label.NAME.zone.test */
static int is(const char *name, size_t size, const char *label, const char *zone)
{
	size_t first = 1 + label[0], middle, last = 1 + zone[0];

	if (size < first + 1 || strncasecmp(name, label, first))
		return 0;
	middle = 1 + (uint8_t)name[first];
	return size == first + middle + last + sizeof "\4test"
	       && !strncasecmp(name + first + middle, zone, last)
	       && !strncasecmp(name + first + middle + last, "\4test", 6);
}

/* How many labels stand before good.test, 0 if that is not the end of the name. */
static int labels_before_good(const char *name, size_t size)
{
	int number = 0;

	for (size_t at = 0; at < size && name[at]; at += 1 + (uint8_t)name[at], number++)
		if (size - at == 11 && !strncasecmp(name + at, "\4good\4test", 11))
			return number;
	return 0;
}

/* Write the MX records of NAME.good.test; return their size. */
static size_t write_mx(char *to, int hosts)
{
	size_t size = 0;

	for (int i = 0; i < hosts; i++) {
		memcpy(to + size, RECORD("\x0f") "\0\6\0", 14);
		to[size + 13] = (char)i;
		memcpy(to + size + 14, "\1 \xc0\x0c", 4);
		to[size + 15] = (char)('0' + i);
		size += 18;
	}
	return size;
}

int main(int argc, char **argv)
{
	int hosts = argc > 1 ? argv[1][0] - '0' : 0;
	static char mx[9 * 18];
	size_t mx_size = write_mx(mx, hosts);
	static char message[4096];
	struct sockaddr_storage who;
	socklen_t who_size;
	ssize_t got;

	for (;;) {
		const char *name = message + HEADER, *data = NULL;
		size_t size = HEADER, data_size = 0;
		int type, speaks_edns, exists;

		who_size = sizeof who;
		got = recvfrom(0, message, 512, 0, (struct sockaddr *)&who, &who_size);
		if (got < 0)
			err(1, "recvfrom");
		while (size < (size_t)got && message[size])
			size += 1 + (uint8_t)message[size];
		size += 1 + 4;
		/* One question, and nothing else but OPT. */
		if (size > (size_t)got || message[2] & 0x80 || message[5] != 1)
			continue;
		type = (uint8_t)message[size - 4] << 8 | (uint8_t)message[size - 3];
		speaks_edns = message[11] == 1;
		exists = 0;
		for (size_t i = 0; i < sizeof zones / sizeof *zones; i++) {
			if (is(name, size - HEADER - 4, "\x08_mta-sts", zones[i])) {
				exists = 1;
				if (type == TXT)
					data = text, data_size = sizeof text - 1;
			} else if (is(name, size - HEADER - 4, "\7mta-sts", zones[i])) {
				exists = 1;
				address[sizeof address - 2] = (char)(1 + i);
				if (type == A)
					data = address, data_size = sizeof address - 1;
			}
		}
		if (hosts && !exists) {
			int labels = labels_before_good(name, size - HEADER - 4);

			exists = labels == 1 || labels == 2 || labels == 4;
			address[sizeof address - 2] = 1;
			if (labels == 1 && type == MX)
				data = mx, data_size = mx_size;
			else if (labels == 2 && type == A)
				data = address, data_size = sizeof address - 1;
			else if (labels == 4 && type == TLSA)
				data = tlsa, data_size = sizeof tlsa;
		}
		message[2] = (message[2] & 0x01) | 0x84; /* a response, with authority */
		/* Recursion available; validated; NXDOMAIN. */
		message[3] = (char)(0x80 | (hosts ? 0x20 : 0) | (exists ? 0 : 3));
		memset(message + 6, 0, 6);
		message[data ? 7 : 9] = (char)(data == mx ? hosts : 1);
		if (!data)
			data = soa, data_size = sizeof soa - 1;
		memcpy(message + size, data, data_size);
		size += data_size;
		if (speaks_edns) {
			memcpy(message + size, opt, OPT_SIZE);
			size += OPT_SIZE;
			message[11] = 1;
		}
		sendto(0, message, size, 0, (struct sockaddr *)&who, who_size);
	}
}
