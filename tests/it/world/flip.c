/* Sends one frame many times, out of a page that a second thread writes to meanwhile: eight bytes of it
 * are by turns those of one frame and those of the other.
 *
 *   flip WAY INTERFACE COUNT FRAME OTHER     both frames in hex, from the Ethernet header on
 *
 * If both are the same, nothing is written meanwhile. The ways to send a page that the sender still has:
 *
 *   vxlan  the page is spliced into a tunnel on the own loopback, and what comes out is sent on by the
 *          rules of tunnel.nft; only the Ethernet header is copied
 *   ring   a packet socket with a ring for sending; only the Ethernet header is copied at first. (A veth
 *          pair copies the rest today, as it does with all that its sender waits to get back.)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long each of the two is there: that matters little. */
enum { PAGE = 4096, SPIN = 30 };

static uint8_t frame[1500], other[1500];
static volatile uint64_t *word;
static uint64_t one, two;
static volatile int stop;

static cpu_set_t all;

/* The two threads have to run at the same time, so each has a processor of its own. */
static void take_processor(int number)
{
	cpu_set_t own;
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all) && number-- == 0) {
			CPU_ZERO(&own);
			CPU_SET(i, &own);
			sched_setaffinity(0, sizeof own, &own);
		}
}

static void *flip(void *unused)
{
	take_processor(1);
	while (!stop) {
		*word = two;
		for (volatile int i = 0; i < SPIN; i++)
			;
		*word = one;
		for (volatile int i = 0; i < SPIN; i++)
			;
	}
	return unused;
}

static int read_hex(uint8_t *bytes, const char *hex)
{
	int length = strlen(hex) / 2;
	for (int i = 0; i < length; i++)
		sscanf(hex + 2 * i, "%2hhx", bytes + i);
	return length;
}

/* Puts the bytes from `start` on at `room`, moved on so that all that differ are in one word. */
static uint8_t *place(uint8_t *room, int start, int length)
{
	int first = start, last = length - 1;
	while (first < last && frame[first] == other[first])
		first++;
	while (last > first && frame[last] == other[last])
		last--;
	for (int shift = 0; shift < 8; shift++) {
		uint8_t *at = room + shift;
		uintptr_t begin = (uintptr_t)(at + first - start) & ~7ul;
		if ((uintptr_t)(at + last - start) >= begin + 8)
			continue;
		word = (uint64_t *)begin;
		memcpy(at, other + start, length - start);
		two = *word;
		memcpy(at, frame + start, length - start);
		one = *word;
		return at;
	}
	errx(1, "bytes %d to %d are not in one word", first, last);
}

int main(int argc, char **argv)
{
	if (argc != 6)
		errx(1, "usage: flip WAY INTERFACE COUNT FRAME OTHER");
	char way = argv[1][0];
	int count = atoi(argv[3]), length = read_hex(frame, argv[4]);
	if (read_hex(other, argv[5]) != length)
		errx(1, "the frames differ in length");

	int file = memfd_create("page", 0), channel[2], sock;
	if (ftruncate(file, PAGE) || pipe(channel))
		err(1, "page");
	uint8_t *page = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), *at;
	struct tpacket_hdr *slot = 0;
	loff_t begin = 0;
	int size = 0;
	if (way == 'v') {
		/* RFC 7348: network 5. The types are none that anything on the way looks into. */
		uint8_t start[] = {8, 0, 0, 0, 0, 0, 5, 0};
		for (int i = 0; i < 2; i++) {
			uint8_t *type = (i ? other : frame) + 12;
			type[1] = type[1] == 0x06 ? 0x35 : 0x34;
			type[0] = 0x12;
		}
		at = place(page + 64, 0, length);
		memcpy(at - sizeof start, start, sizeof start);
		begin = at - sizeof start - page;
		size = length + sizeof start;
		struct sockaddr_in to = {
			.sin_family = AF_INET, .sin_port = htons(4789), .sin_addr = {htonl(INADDR_LOOPBACK)}};
		sock = socket(AF_INET, SOCK_DGRAM, 0);
		if (connect(sock, (void *)&to, sizeof to))
			err(1, "connect");
	} else {
		sock = socket(AF_PACKET, SOCK_RAW, 0);
		int discard = 1;
		struct tpacket_req ring = {PAGE, 1, PAGE, 1};
		/* Where a frame begins is the sender's choice. */
		if (setsockopt(sock, SOL_PACKET, PACKET_TX_HAS_OFF, &discard, sizeof discard) ||
		    setsockopt(sock, SOL_PACKET, PACKET_TX_RING, &ring, sizeof ring))
			err(1, "ring");
		struct sockaddr_ll from = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[2])};
		if (bind(sock, (void *)&from, sizeof from))
			err(1, "bind");
		slot = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, sock, 0);
		at = place((uint8_t *)slot + 128, 0, length);
		slot->tp_mac = at - (uint8_t *)slot;
		slot->tp_net = slot->tp_mac;
		slot->tp_len = length;
	}

	pthread_t thread;
	sched_getaffinity(0, sizeof all, &all);
	take_processor(0);
	if (memcmp(frame, other, length))
		pthread_create(&thread, 0, flip, 0);
	int sent = 0;
	for (int i = 0; i < count; i++) {
		/* A refusal of this one, as the way is full, is no reason to send no more. */
		if (slot) {
			slot->tp_status = TP_STATUS_SEND_REQUEST;
			sent += send(sock, 0, 0, 0) >= 0;
		} else {
			loff_t from = begin;
			if (splice(file, &from, channel[1], 0, size, 0) != size)
				err(1, "splice");
			if (splice(channel[0], 0, sock, 0, size, 0) == size)
				sent++;
			else if (errno != EPERM && errno != ENOBUFS)
				err(1, "splice to the socket");
		}
		if (i % 16 == 15)
			usleep(150);
	}
	stop = 1;
	printf("%d\n", sent);
	return 0;
}
