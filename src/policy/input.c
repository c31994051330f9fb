#include "policy/input.h"

#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "policy/policy.h"
#include "policy/resize.h"

pi0_status input_new(pi0_input **input, const pi0_policy *policy, int cameras, bool float32, pi0_error *error) {
    pi0_input *made = memory_zeroed(1, sizeof *made);
    if (!made) return error_memory(error, sizeof *made, "a prepared request");
    made->float32 = float32;
    made->cameras = cameras;
    made->image_size = policy->image_size;
    made->model_width = policy->config.action_dim;
    size_t values = (size_t)cameras * (size_t)policy->image_size * (size_t)policy->image_size * 3;
    if (float32)
        made->floats = memory_zeroed(values, sizeof *made->floats);
    else
        made->pixels = memory_zeroed(values, sizeof *made->pixels);
    if (!made->floats && !made->pixels) {
        pi0_input_free(&made);
        return error_memory(error, values, "resized images");
    }
    *input = made;
    return PI0_OK;
}

void pi0_input_free(pi0_input **input) {
    if (!input || !*input) return;
    resize_plan_release(&(*input)->resize);
    memory_release((*input)->pixels);
    memory_release((*input)->floats);
    memory_release((*input)->tokens);
    memory_release((*input)->token_mask);
    memory_release(*input);
    *input = NULL;
}

static size_t image_values(const pi0_input *input) { return (size_t)input->image_size * (size_t)input->image_size * 3; }

void pi0_input_observation(const pi0_input *input, pi0_observation *observation) {
    *observation =
        (pi0_observation){.tokens = input->tokens, .token_count = input->valid_tokens, .state = input->model_state};
    for (int i = 0; i < input->cameras; i++) {
        if (!input->image_mask[i]) continue;
        size_t offset = (size_t)i * image_values(input);
        if (input->pixels)
            observation->images[i] = input->pixels + offset;
        else
            observation->float_images[i] = input->floats + offset;
    }
}

void input_look(const pi0_input *input, input_view *view) {
    pi0_observation observation;
    pi0_input_observation(input, &observation);
    *view = (input_view){
        .float32 = input->float32,
        .cameras = input->cameras,
        .image_size = input->image_size,
        .state_count = input->model_width,
        .token_count = input->token_count,
        .state = input->state,
        .tokens = input->tokens,
        .token_mask = input->token_mask,
    };
    memcpy(view->camera_names, input->camera_names, sizeof view->camera_names);
    memcpy(view->image_mask, input->image_mask, sizeof view->image_mask);
    memcpy(view->images, observation.images, sizeof view->images);
    memcpy(view->float_images, observation.float_images, sizeof view->float_images);
}

/* The image resized into its slot. */
static pi0_status place_image(pi0_input *input, int slot, camera_image *camera, const char *key, pi0_error *error) {
    size_t offset = (size_t)slot * image_values(input);
    int size = input->image_size, height = camera->height, width = camera->width;
    if (input->pixels)
        return resize_again(input->pixels + offset, size, camera->pixels, height, width, camera->planes, &input->resize,
                            error);
    TRY(camera_interleave(camera, key, error));
    return resize_with_pad_torch(input->floats + offset, size, camera->pixels, height, width, error);
}

pi0_status input_set_image(pi0_input *input, int slot, const value *image, const char *key, camera_layout layout,
                           pi0_error *error) {
    camera_image camera;
    TRY(camera_read(&camera, image, key, layout, error));
    pi0_status status = place_image(input, slot, &camera, key, error);
    camera_release(&camera);
    if (status != PI0_OK) return error_prefix(error, status, "image '%.200s'", key);
    input->image_mask[slot] = true;
    return PI0_OK;
}

void input_finish_state(pi0_input *input) {
    resize_plan_release(&input->resize);
    for (int i = input->state_count; i < ROBOT_MAX_STATE; i++) input->state[i] = 0;
    for (int i = 0; i < ROBOT_MAX_STATE; i++) input->model_state[i] = (float)input->state[i];
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static pi0_status copy_text(task_text *task, const char *text, size_t length, pi0_error *error) {
    task->text = memory_string_n(text, length);
    task->length = length;
    return task->text ? PI0_OK : error_memory(error, length, "a prompt");
}

pi0_status task_from_string(task_text *task, const char *text, pi0_error *error) {
    return copy_text(task, text, strlen(text), error);
}

/* The one item of a numpy text array, UTF-32 padded with NUL, as UTF-8. */
static pi0_status read_text_array(task_text *task, const value_array *array, const char *key, pi0_error *error) {
    size_t count = (size_t)array->item_bytes / 4;
    char *text = memory_allocate(4 * count + 1);
    if (!text) return error_memory(error, 4 * count + 1, "a prompt");
    size_t used = 0, end = 0; /* end: after the last code point that is not NUL */
    for (size_t i = 0; i < count; i++) {
        uint32_t code_point;
        memcpy(&code_point, (const char *)array->data + 4 * i, sizeof code_point);
        size_t written = utf8_write(text + used, code_point);
        if (written == 0) {
            memory_release(text);
            return error_set(error, PI0_ERROR_FORMAT, "'%s': U+%X is no Unicode character", key, (unsigned)code_point);
        }
        used += written;
        if (code_point) end = used;
    }
    text[end] = 0;
    *task = (task_text){text, end};
    return PI0_OK;
}

pi0_status task_read(task_text *task, const value *v, const char *key, bool bytes_allowed, pi0_error *error) {
    bool array = v->kind == VALUE_ARRAY || v->kind == VALUE_SCALAR;
    if (v->kind == VALUE_TEXT) return copy_text(task, v->text.data, v->text.length, error);
    if (array && v->array.kind == 'U' && value_array_count(&v->array) == 1)
        return read_text_array(task, &v->array, key, error);
    if (bytes_allowed && v->kind == VALUE_BYTES) {
        if (!utf8_valid(v->text.data, v->text.length))
            return error_set(error, PI0_ERROR_FORMAT, "'%s': expected its bytes to be UTF-8", key);
        return copy_text(task, v->text.data, v->text.length, error);
    }
    return robot_refuse(v, key, bytes_allowed ? "text or bytes" : "text", error);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static pi0_status allocate_tokens(pi0_input *input, int count, pi0_error *error) {
    input->tokens = memory_zeroed((size_t)count, sizeof *input->tokens);
    input->token_mask = memory_zeroed((size_t)count, sizeof *input->token_mask);
    input->token_count = count;
    if (input->tokens && input->token_mask) return PI0_OK;
    return error_memory(error, (size_t)count * sizeof *input->tokens, "tokens");
}

pi0_status input_tokenize(pi0_input *input, const pi0_policy *policy, prompt_format format, int limit,
                          const task_text *task, const double *state, int state_count, pi0_error *error) {
    TRY(allocate_tokens(input, limit, error));
    if (!task->text) return PI0_OK;
    if (!policy->tokenizer)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "a prompt needs a tokenizer, and the policy was opened without one: name PaliGemma's "
                         "SentencePiece file, or give token ids");
    prompt_tokens result;
    TRY(prompt_tokenize(&result, input->tokens, input->token_mask, limit, policy->tokenizer, format, task->text,
                        task->length, state, (size_t)state_count, error));
    input->valid_tokens = result.valid;
    if (result.truncated)
        log_message(&policy->log, PI0_LOG_WARNING,
                    "the prompt has %zu tokens and the model takes %d: it was cut at the end%s", result.full_count,
                    limit, format == PROMPT_STATE ? ", where the state stands" : "");
    return PI0_OK;
}

/* Element i of a list or array of integers or booleans; false if it is neither, or out of range. */
static bool read_integer(const value *v, size_t i, int64_t *number) {
    if (v->kind == VALUE_LIST) {
        const value *item = &v->list.items[i];
        if (item->kind != VALUE_INT && item->kind != VALUE_BOOL) return false;
        *number = item->kind == VALUE_INT ? item->integer : item->boolean;
        return true;
    }
    double value = value_array_number(&v->array, i);
    *number = (int64_t)value;
    return value >= 0 && value <= INT32_MAX;
}

/* A list, or an array of rank 1, of integers or booleans. */
static bool is_integers(const value *v, size_t *count) {
    bool array = v->kind == VALUE_ARRAY && v->array.rank == 1 && strchr("iub", v->array.kind);
    *count = v->kind == VALUE_LIST ? v->list.count : array ? value_array_count(&v->array) : 0;
    return array || v->kind == VALUE_LIST;
}

pi0_status input_set_tokens(pi0_input *input, const pi0_policy *policy, const value *ids, const value *mask,
                            pi0_error *error) {
    size_t count, mask_count;
    if (!is_integers(ids, &count)) return robot_refuse(ids, REQUEST_TOKENS, "a list of token ids", error);
    if (count > (size_t)policy->max_tokens)
        return error_set(error, PI0_ERROR_ARGUMENT, "expected at most %d token ids, found %zu", policy->max_tokens,
                         count);
    if (mask && (!is_integers(mask, &mask_count) || mask_count != count))
        return robot_refuse(mask, REQUEST_TOKENS "_mask", "as many booleans as there are token ids", error);
    TRY(allocate_tokens(input, (int)count > policy->prompt_tokens ? (int)count : policy->prompt_tokens, error));
    for (size_t i = 0; i < count; i++) {
        int64_t id, valid = 1;
        if (!read_integer(ids, i, &id) || id < 0 || id > INT32_MAX || (mask && !read_integer(mask, i, &valid)))
            return error_set(error, PI0_ERROR_ARGUMENT, "token %zu: expected an id from 0 to %d", i, INT32_MAX);
        if (!valid) continue;
        input->token_mask[input->valid_tokens] = true;
        input->tokens[input->valid_tokens++] = (int32_t)id;
    }
    return PI0_OK;
}
