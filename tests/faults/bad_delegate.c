/* A TensorFlow Lite delegate that takes over the last node of the model `parts` (uint8 from int8: x + 128), does it
   right, and misbehaves as its options say: mode=refuse|prepare|raise|hang|abort|stale|nonsense, after=N inferences,
   and, with `while`=FILE, only while that file is there.

   TensorFlow Lite's headers are in no package, so what is used of them is declared here, as in
   tensorflow/lite/core/c/common.h. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum { OK = 0, ERROR = 1 } Status;

typedef struct { int size; int data[]; } IntArray;

typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;

typedef struct { IntArray *inputs; IntArray *outputs; } Node; /* and more, never touched here */

struct Context;

typedef struct {
  void *(*init)(struct Context *, const char *, size_t);
  void (*free)(struct Context *, void *);
  Status (*prepare)(struct Context *, Node *);
  Status (*invoke)(struct Context *, Node *);
  const char *(*profiling_string)(const struct Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *async_kernel;
  uint64_t inplace_operator;
} Registration;

typedef struct Delegate {
  void *data;
  Status (*Prepare)(struct Context *, struct Delegate *);
  void *CopyFromBufferHandle;
  void *CopyToBufferHandle;
  void *FreeBufferHandle;
  int64_t flags;
  void *opaque_delegate_builder;
} Delegate;

typedef struct Context {
  size_t tensors_size;
  Status (*GetExecutionPlan)(struct Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  Status (*ResizeTensor)(struct Context *, Tensor *, IntArray *);
  void (*ReportError)(struct Context *, const char *, ...);
  Status (*AddTensors)(struct Context *, int, int *);
  Status (*GetNodeAndRegistration)(struct Context *, int, Node **, Registration **);
  Status (*ReplaceNodeSubsetsWithDelegateKernels)(struct Context *, Registration, const IntArray *, Delegate *);
} Context; /* and more, never touched here */

static char mode[16], while_file[512];
static long after, done;
static Delegate delegate;

static bool bad(const char *wanted) {
  return strcmp(mode, wanted) == 0 && (!while_file[0] || access(while_file, F_OK) == 0);
}

static Status kernel_prepare(Context *context, Node *node) { return OK; }

static Status kernel_invoke(Context *context, Node *node) {
  const Tensor *in = &context->tensors[node->inputs->data[0]];
  Tensor *out = &context->tensors[node->outputs->data[0]];
  bool now = ++done > after;
  if (now && bad("raise")) {
    context->ReportError(context, "the accelerator lost its mind");
    return ERROR;
  }
  while (now && bad("hang")) usleep(10000);
  if (now && bad("abort")) abort();
  if (now && bad("stale")) return OK;
  for (size_t i = 0; i < out->bytes; i++)
    ((uint8_t *)out->data)[i] = now && bad("nonsense") ? (uint8_t)(255 * (i % 2)) : ((uint8_t *)in->data)[i] ^ 0x80;
  return OK;
}

static Status prepare(Context *context, Delegate *self) {
  IntArray *plan;
  struct { int size; int data[1]; } last = {1, {0}};
  Registration kernel = {.prepare = kernel_prepare, .invoke = kernel_invoke, .custom_name = "BadDelegate", .version = 1};
  if (bad("prepare")) {
    context->ReportError(context, "the accelerator is too hot");
    return ERROR;
  }
  if (context->GetExecutionPlan(context, &plan) != OK) return ERROR;
  last.data[0] = plan->data[plan->size - 1];
  return context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, (const IntArray *)&last, self);
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  for (size_t i = 0; i < count; i++) {
    if (strcmp(keys[i], "mode") == 0) strncpy(mode, values[i], sizeof mode - 1);
    if (strcmp(keys[i], "after") == 0) after = atol(values[i]);
    if (strcmp(keys[i], "while") == 0) strncpy(while_file, values[i], sizeof while_file - 1);
  }
  if (bad("refuse")) {
    if (report) report("no accelerator is plugged in");
    return NULL;
  }
  done = 0;
  delegate = (Delegate){.Prepare = prepare};
  return &delegate;
}

void tflite_plugin_destroy_delegate(Delegate *self) {}
