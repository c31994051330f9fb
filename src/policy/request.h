/*
 * A request as policies read it: values set from code come before those of the decoded message. Values keep the types
 * they were sent with. A request without a message is one built from code; there a missing camera is masked out and a
 * missing state is zeros, which a message may not leave out.
 */
#ifndef PI0_POLICY_REQUEST_H
#define PI0_POLICY_REQUEST_H

#include "policy/value.h"

/* The key under which pi0_request_set_state keeps a state given for no key: the robot's whole state. */
#define REQUEST_STATE ""
/* Where pi0_request_set_tokens keeps ids, and the wire's name for them in a request without robot. */
#define REQUEST_TOKENS "tokenized_prompt"
#define REQUEST_PROMPT "prompt"

typedef enum request_role { REQUEST_IS_IMAGE, REQUEST_IS_STATE, REQUEST_IS_PROMPT, REQUEST_IS_TOKENS } request_role;

/* One value set from code. Images: uint8 array [height, width, 3]; states: float64 [n]; tokens: int32 [n]. */
typedef struct request_entry {
    char *key;
    request_role role;
    value item;
    void *memory; /* what item points to */
} request_entry;

struct pi0_request {
    wire_message message; /* root NULL: built from code */
    request_entry *entries;
    size_t count, capacity;
};

/* The value of a key, or NULL. */
const value *request_find(const pi0_request *request, const char *key);
/* The same among the values set from code only. */
const value *request_find_set(const pi0_request *request, const char *key);
/* pi0_request_decode without a copy: see wire_decode_in_place. */
pi0_status request_decode_in_place(pi0_request **request, void *bytes, size_t size, pi0_error *error);
bool request_is_built(const pi0_request *request);

#endif
