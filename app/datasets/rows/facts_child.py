"""Run by `facts.to_parquet` as a script: FOLDER LINES PARQUET MEMORY LONGEST GROUP. Knows nothing else."""

import os
import sys

COLUMNS = {
    "number": "UINTEGER",
    "roles": "UTINYINT",
    "turns": "UINTEGER",
    "length": "UINTEGER",
    "language": "VARCHAR",
    "flags": "UTINYINT",
    "text": "VARCHAR",
}


def main(folder: str, lines: str, parquet: str, memory: str, longest: str, group: str) -> None:
    os.chdir(folder)
    import duckdb

    rows = duckdb.connect(
        config={
            "threads": 1,
            "memory_limit": f"{memory}MiB",
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    rows.execute("SET allowed_paths = ?", [[lines, parquet]])
    rows.execute("SET enable_external_access = false")
    rows.execute("SET lock_configuration = true")
    types = ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS.items())
    rows.execute(
        f"COPY (SELECT * FROM read_json('{lines}', format = 'newline_delimited', "  # noqa: S608
        f"columns = {{{types}}}, maximum_object_size = {int(longest)})) TO '{parquet}' "
        f"(FORMAT parquet, COMPRESSION lz4_raw, ROW_GROUP_SIZE {int(group)}, USE_TMP_FILE false)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
