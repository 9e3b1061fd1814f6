/* A TensorFlow Lite delegate for tests: it takes no work off the runtime, refuses where its options say so, and tells
   what options it got. The first fields of TfLiteDelegate are declared here, because no package has the header. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Delegate {
    void *data;
    int (*prepare)(void *context, struct Delegate *delegate);
    void *copy_from, *copy_to, *free_handle;
    int64_t flags;
    void *builder;
} Delegate;

static int prepare(void *context, Delegate *delegate) {
    (void)context;
    (void)delegate;
    return 0;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
    char said[400] = "asked for";
    int refuses = 0;
    for (size_t i = 0; i < count; i++) {
        refuses = refuses || strcmp(keys[i], "refuse") == 0;
        snprintf(said + strlen(said), sizeof said - strlen(said), " %s=%s", keys[i], values[i]);
    }
    if (refuses) {
        report(said);
        return NULL;
    }
    Delegate *made = calloc(1, sizeof *made);
    made->prepare = prepare;
    return made;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
