/*
 * From the names in a file to the canonical ones. openpi writes the canonical names; lerobot puts "model." in front
 * and, when it reads names without that prefix, renames the time MLP to what the policy's family calls it (lerobot
 * policies/pi0/modeling_pi0.py, pi05/modeling_pi05.py). The token embedding has two names in both.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint/internal.h"

static const struct {
    const char *pi0, *pi05;
} time_mlp[] = {
    {"action_time_mlp_in.weight", "time_mlp_in.weight"},
    {"action_time_mlp_in.bias", "time_mlp_in.bias"},
    {"action_time_mlp_out.weight", "time_mlp_out.weight"},
    {"action_time_mlp_out.bias", "time_mlp_out.bias"},
};

static const char *canonical_name(const checkpoint *checkpoint, const char *name) {
    if (!strncmp(name, "model.", 6))
        name += 6;
    else if (checkpoint->layout == LAYOUT_LEROBOT)
        for (size_t i = 0; i < sizeof time_mlp / sizeof *time_mlp; i++) {
            bool pi05 = checkpoint->config.family == PI0_FAMILY_PI05;
            const char *ours = pi05 ? time_mlp[i].pi05 : time_mlp[i].pi0;
            const char *theirs = pi05 ? time_mlp[i].pi0 : time_mlp[i].pi05;
            if (!strcmp(name, theirs)) return ours;
        }
    return name;
}

/* Where a file has embed_tokens, that is the embedding, and lm_head is not read. */
static void resolve_embedding(checkpoint *checkpoint) {
    bool has_tokens = false;
    for (size_t i = 0; i < checkpoint->count; i++)
        has_tokens |= !strcmp(checkpoint->entries[i].canonical, CHECKPOINT_EMBED_TOKENS);
    if (!has_tokens) return;
    for (size_t i = 0; i < checkpoint->count; i++) {
        const char **name = &checkpoint->entries[i].canonical;
        if (!strcmp(*name, CHECKPOINT_EMBEDDING))
            *name = "";
        else if (!strcmp(*name, CHECKPOINT_EMBED_TOKENS))
            *name = CHECKPOINT_EMBEDDING;
    }
}

static int by_canonical(const void *left, const void *right) {
    const checkpoint_entry *const *a = left, *const *b = right;
    return strcmp((*a)->canonical, (*b)->canonical);
}

pi0_status checkpoint_resolve_names(checkpoint *checkpoint, pi0_error *error) {
    checkpoint->by_name = memory_zeroed(checkpoint->count, sizeof *checkpoint->by_name);
    if (!checkpoint->by_name)
        return error_memory(error, checkpoint->count * sizeof *checkpoint->by_name, "the list of tensors");
    for (size_t i = 0; i < checkpoint->count; i++)
        checkpoint->entries[i].canonical = canonical_name(checkpoint, checkpoint->entries[i].tensor->name);
    resolve_embedding(checkpoint);
    for (size_t i = 0; i < checkpoint->count; i++)
        if (*checkpoint->entries[i].canonical) checkpoint->by_name[checkpoint->named++] = &checkpoint->entries[i];
    qsort(checkpoint->by_name, checkpoint->named, sizeof *checkpoint->by_name, by_canonical);
    for (size_t i = 1; i < checkpoint->named; i++) {
        const checkpoint_entry *previous = checkpoint->by_name[i - 1], *entry = checkpoint->by_name[i];
        if (!strcmp(previous->canonical, entry->canonical))
            return error_set(error, PI0_ERROR_FORMAT, "%.300s: '%.200s' and '%.200s' stand for the same tensor",
                             checkpoint->path, previous->tensor->name, entry->tensor->name);
    }
    return PI0_OK;
}
