/* Image files; what is accepted goes through both resizes. */
#include <stdlib.h>

#include "policy/image.h"
#include "policy/resize.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { SIDE = 56 };
    /* Decoding an honest 100-megapixel image takes seconds, which is no finding: leave out what claims over 4 MP. PNG
     * has its size at a fixed place; a JPEG's is checked after decoding its header only by the decoder itself. */
    if (size > 24 && data[0] == 0x89 &&
        (data[16] | data[17] | data[20] | data[21] | (data[18] & 0xf8) | (data[22] & 0xf8)))
        return 0;
    image decoded;
    if (image_decode(&decoded, data, size, "file", NULL)) return 0;
    static uint8_t bytes[SIDE * SIDE * 3];
    static float floats[SIDE * SIDE * 3];
    resize_with_pad(bytes, SIDE, decoded.pixels, decoded.height, decoded.width, NULL);
    resize_with_pad_torch(floats, SIDE, decoded.pixels, decoded.height, decoded.width, NULL);
    image_release(&decoded);
    return 0;
}
