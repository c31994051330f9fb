#include "base/utf8.h"

size_t utf8_read(const char *text, size_t length, uint32_t *code_point) {
    if (!length) return 0;
    const unsigned char *bytes = (const unsigned char *)text;
    uint32_t first = bytes[0];
    if (first < 0x80) {
        *code_point = first;
        return 1;
    }
    size_t size = first >= 0xc2 && first <= 0xdf   ? 2
                  : (first & 0xf0) == 0xe0         ? 3
                  : first >= 0xf0 && first <= 0xf4 ? 4
                                                   : 0;
    if (!size || size > length) return 0;
    uint32_t value = first & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (bytes[i] & 0x3f);
    }
    if (size == 3 && (value < 0x800 || (value >= 0xd800 && value <= 0xdfff))) return 0;
    if (size == 4 && (value < 0x10000 || value > 0x10ffff)) return 0;
    *code_point = value;
    return size;
}

size_t utf8_write(char *text, uint32_t code_point) {
    if (code_point < 0x80) {
        text[0] = (char)code_point;
        return 1;
    }
    if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point <= 0xdfff)) return 0;
    size_t size = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--) {
        text[i] = (char)(0x80 | (code_point & 0x3f));
        code_point >>= 6;
    }
    text[0] = (char)((0xf00u >> size) | code_point);
    return size;
}

bool utf8_valid(const char *text, size_t length) {
    while (length) {
        uint32_t code_point;
        size_t size = utf8_read(text, length, &code_point);
        if (!size) return false;
        text += size;
        length -= size;
    }
    return true;
}
