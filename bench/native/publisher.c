/* Publishes readings at QoS 1 as fast as libmosquitto can, never further than a number in a shared file allows.
 *
 * publisher HOST PORT TOPIC COUNT GATE < TEMPLATE
 * Each reading is the template with @SEQ@ in it replaced by 1, 2, 3 ...; GATE is a file of one 64-bit number.
 * It says "connected" on its standard output, and ends once the broker has acknowledged all. No header of
 * libmosquitto is needed: what is used of it is declared here. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

struct mosquitto;
int mosquitto_lib_init(void);
struct mosquitto *mosquitto_new(const char *id, bool clean_session, void *object);
int mosquitto_connect(struct mosquitto *, const char *host, int port, int keepalive_s);
int mosquitto_int_option(struct mosquitto *, int option, int value);
int mosquitto_loop(struct mosquitto *, int timeout_ms, int max_packets);
int mosquitto_max_inflight_messages_set(struct mosquitto *, unsigned int);
int mosquitto_publish(struct mosquitto *, int *mid, const char *topic, int bytes, const void *, int qos, bool retain);
void mosquitto_connect_callback_set(struct mosquitto *, void (*)(struct mosquitto *, void *, int));
void mosquitto_publish_callback_set(struct mosquitto *, void (*)(struct mosquitto *, void *, int));
enum { OPTION_TCP_NODELAY = 11, BURST = 64, MAX_BYTES = 8192 };

static uint64_t acknowledged;
static bool connected;

static void on_connect(struct mosquitto *client, void *object, int code) { connected = code == 0; }
static void on_publish(struct mosquitto *client, void *object, int mid) { acknowledged++; }

static int fail(const char *what) {
    fprintf(stderr, "publisher: %s\n", what);
    return 1;
}

int main(int argc, char **argv) {
    static char template[MAX_BYTES], payload[MAX_BYTES + 32];
    if (argc != 6) return fail("HOST PORT TOPIC COUNT GATE < TEMPLATE");
    size_t length = fread(template, 1, sizeof template - 1, stdin);
    char *mark = strstr(template, "@SEQ@");
    if (!length || !mark) return fail("no @SEQ@ in the template");
    size_t head = (size_t)(mark - template);
    const char *tail = mark + 5;
    uint64_t count = strtoull(argv[4], NULL, 10), sent = 0;
    int gate_file = open(argv[5], O_RDONLY);
    volatile uint64_t *gate = mmap(NULL, sizeof *gate, PROT_READ, MAP_SHARED, gate_file, 0);
    if (gate_file < 0 || gate == MAP_FAILED) return fail("cannot read the gate");

    mosquitto_lib_init();
    struct mosquitto *client = mosquitto_new("bench-publisher", true, NULL);
    mosquitto_connect_callback_set(client, on_connect);
    mosquitto_publish_callback_set(client, on_publish);
    mosquitto_max_inflight_messages_set(client, 0);
    mosquitto_int_option(client, OPTION_TCP_NODELAY, 1);
    if (mosquitto_connect(client, argv[1], atoi(argv[2]), 60)) return fail("cannot connect");
    while (!connected)
        if (mosquitto_loop(client, 100, 1)) return fail("the broker ended the connection");
    puts("connected");
    fflush(stdout);

    memcpy(payload, template, head);
    while (acknowledged < count) {
        int burst = 0;
        for (; burst < BURST && sent < count && sent < *gate; burst++) {
            int bytes = (int)head + snprintf(payload + head, sizeof payload - head, "%llu%s",
                                             (unsigned long long)(sent + 1), tail);
            if (mosquitto_publish(client, NULL, argv[3], bytes, payload, 1, false)) return fail("cannot publish");
            sent++;
        }
        if (mosquitto_loop(client, burst ? 0 : 1, 1)) return fail("the broker ended the connection");
    }
    return 0;
}
