#include "policy/sentencepiece_shim.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <vector>

extern "C" {
#include "base/memory.h"
}

/* Exported by the library, but not in its installed headers. */
namespace sentencepiece {
namespace logging {
void SetMinLogLevel(int level);
}
} // namespace sentencepiece

struct piece_model {
    ::sentencepiece::SentencePieceProcessor processor;
};

namespace {

constexpr int log_fatal_only = 3;

void explain(char *message, size_t message_size, const char *text) { snprintf(message, message_size, "%s", text); }

} // namespace

piece_model *sentencepiece_load(const void *bytes, size_t size, char *message, size_t message_size) {
    try {
        ::sentencepiece::logging::SetMinLogLevel(log_fatal_only); /* errors come back as a status as well */
        auto model = std::make_unique<piece_model>();
        auto status = model->processor.LoadFromSerializedProto({static_cast<const char *>(bytes), size});
        if (status.ok()) return model.release();
        explain(message, message_size, status.message());
    } catch (const std::exception &error) {
        explain(message, message_size, error.what());
    } catch (...) {
        explain(message, message_size, "unknown exception");
    }
    return nullptr;
}

void sentencepiece_unload(piece_model *model) { delete model; }

int sentencepiece_pieces(const piece_model *model) { return model->processor.GetPieceSize(); }

int sentencepiece_encode(const piece_model *model, const char *text, size_t length, int32_t **ids, size_t *count,
                         char *message, size_t message_size) {
    try {
        std::vector<int> pieces;
        auto status = model->processor.Encode({text, length}, &pieces);
        if (!status.ok()) {
            explain(message, message_size, status.message());
            return -1;
        }
        static_assert(sizeof(int) == sizeof(int32_t), "ids are copied as they are");
        *ids = static_cast<int32_t *>(memory_allocate(pieces.size() * sizeof(int32_t)));
        if (!*ids) {
            explain(message, message_size, "out of memory");
            return -1;
        }
        if (!pieces.empty()) memcpy(*ids, pieces.data(), pieces.size() * sizeof(int32_t));
        *count = pieces.size();
        return 0;
    } catch (const std::exception &error) {
        explain(message, message_size, error.what());
    } catch (...) {
        explain(message, message_size, "unknown exception");
    }
    return -1;
}
