#!/usr/bin/env python3
"""Looks at the compiled kernels of the HIP backend and holds docs/amd.md's table to them.

    check_code.py BUILD            fails unless every product and attention kernel has matrix instructions, no kernel
                                   has scratch memory or spilled vector registers, and the table is right
    check_code.py BUILD --write    writes the table

BUILD/hip has a code object and the compiler's listings for each architecture; BUILD/tests/hip the stand-in for
libamdhip64, under which `pi0 bench` tells each launch's LDS. Occupancy follows from AMD's limits: 512 registers of a
lane, in eights, shared by the waves of a SIMD, four SIMDs a CU; LDS of a CU shared by its blocks.
"""
import collections
import os
import re
import subprocess
import sys
import tempfile

LDS = {"gfx942": 64 * 1024, "gfx950": 160 * 1024}
LDS_STEP = {"gfx942": 512, "gfx950": 1280}  # what a block's LDS is rounded up to
MATRIX = ("gemm_portable", "attention_kernel", "skinny_kernel", "heads_kernel")
BEGIN, END = "<!-- resources: begin -->", "<!-- resources: end -->"


def run(*command, **environment):
    return subprocess.run(command, check=True, capture_output=True, text=True,
                          env={**os.environ, **environment}).stdout


def tool(name):
    for candidate in (name + "-19", name):
        if any(os.access(os.path.join(folder, candidate), os.X_OK) for folder in os.environ["PATH"].split(":")):
            return candidate
    sys.exit(f"{name}-19 was not found")


def metadata(path):
    """kernel -> what the code object's notes say of it"""
    kernels = {}
    for part in re.split(r"\n\s+- \.agpr_count:", run(tool("llvm-readelf"), "--notes", path))[1:]:
        fields = dict(re.findall(r"\.(\w+): +(\S+)", ".agpr_count:" + part))
        kernels[fields["name"]] = fields
    return kernels


def matrix_instructions(text, label):
    """kernel -> how many v_mfma in a listing or disassembly; `label` finds where a kernel begins"""
    counts, kernel = collections.Counter(), None
    for line in text.splitlines():
        begin = re.match(label, line)
        if begin:
            kernel = begin.group(1)
        elif kernel and re.search(r"\bv_mfma_", line):
            counts[kernel] += 1
        elif kernel and re.search(r"\bscratch_(load|store)", line):
            counts[kernel, "scratch"] += 1
    return counts


def launches(build, arch):
    """kernel -> [threads, most LDS, launches per inference of pi0, of pi0.5] at full size, batch 1; without loading"""
    found = {}
    for column, model in enumerate(("pi0", "pi05")):
        with tempfile.NamedTemporaryFile("r") as log:
            run(os.path.join(build, "pi0"), "bench", "--model", model, "--backend", "hip", "--no-graph", "--warmup", "0",
                "--iterations", "1", STANDIN_LOG=log.name, STANDIN_ARCH=arch,
                LD_LIBRARY_PATH=os.path.join(build, "tests/hip"))
            lines = [line.split() for line in log]
        inferences = sum("text_kernel" in line[0] for line in lines)
        for name, *_, threads, lds in lines:
            if not re.search("pack_kernel|linear_kernel|fold_|rope_table", name):
                entry = found.setdefault(name, [int(threads), 0, 0, 0])
                entry[1] = max(entry[1], int(lds))
                entry[2 + column] += 1
        for entry in found.values():
            entry[2 + column] //= inferences
    return found


def short(name):
    """_Z13gemm_portableIL13gemm_epilogue4ELi1E..: gemm_portable<4, 1, ..>"""
    base = re.match(r"_Z(\d+)(\w+)", name)
    length = int(base.group(1))
    values = re.findall(r"L(?:i|\d+[a-z_]+)(\d+)E", base.group(2)[length:])
    return base.group(2)[:length] + (f"<{', '.join(values)}>" if values else "")


def waves_by_registers(registers):
    return min(8, 512 // (-(-max(registers, 1) // 8) * 8))


def blocks_per_cu(arch, registers, threads, lds):
    by_lds = LDS[arch] // (-(-lds // LDS_STEP[arch]) * LDS_STEP[arch]) if lds else 99
    return max(0, min(by_lds, waves_by_registers(registers) * 4 // (threads // 64)))


def main():
    build, write = sys.argv[1], "--write" in sys.argv
    wrong, rows = [], []
    for arch in LDS:
        folder = os.path.join(build, "hip")
        notes = metadata(os.path.join(folder, f"kernels.{arch}"))
        counts = collections.Counter()
        for name in sorted(os.listdir(folder)):
            if name.endswith(f".{arch}.s"):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    counts.update(matrix_instructions(file.read(), r"(_Z\w+):"))
        if arch == "gfx942":  # LLVM 19 can read this one back: the listing tells the truth
            code = run(tool("llvm-objdump"), "-d", os.path.join(folder, "kernels.gfx942"))
            read_back = matrix_instructions(code, r"[0-9a-f]+ <(_Z\w+)>:")
            wrong += [f"{arch} {short(k)}: {counts[k]} matrix instructions listed, {read_back[k]} in the code object"
                      for k in notes if counts[k] != read_back[k]]
        for name, fields in notes.items():
            if any(word in name for word in MATRIX) and not counts[name]:
                wrong.append(f"{arch} {short(name)}: no matrix instruction")
            if int(fields["private_segment_fixed_size"]) or int(fields["vgpr_spill_count"]) or counts[name, "scratch"]:
                wrong.append(f"{arch} {short(name)}: {fields['private_segment_fixed_size']} bytes of scratch memory")
        for name, (threads, lds, pi0, pi05) in launches(build, arch).items():
            fields = notes[name]
            registers = int(fields["vgpr_count"])
            blocks = blocks_per_cu(arch, registers, threads, lds)
            if not blocks:
                wrong.append(f"{arch} {short(name)}: {lds} bytes of LDS and {registers} registers fit no CU")
            rows.append((short(name), arch, threads, counts[name], registers, int(fields["agpr_count"]), lds, blocks,
                         blocks * (threads // 64), pi0, pi05))
    table = ["| kernel | GPU | threads | MFMA in the code | registers | of these accumulation | LDS, bytes | blocks a CU "
             "| waves a CU, of 32 | launches, pi0 | pi0.5 |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    table += ["| `" + "` | ".join((row[0], " | ".join(str(v) for v in row[1:]))) + " |" for row in sorted(rows)]
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/amd.md")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    fresh = "\n" + "\n".join(table) + "\n"
    if write:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text[:begin] + fresh + text[end:])
    elif text[begin:end] != fresh:
        wrong.append("docs/amd.md: the table of resources is not what was compiled; check_code.py BUILD --write writes it")
    for line in wrong:
        print(line)
    print(f"{len(rows)} kernels of both policies on both GPUs looked at, {len(wrong)} findings")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
