"""Run by `parquet.spool` as a script: FOLDER FILE OUT MEMORY SPACE SIZE. Knows nothing else.

Ends with 27 where SIZE bytes were not enough.
"""

import os
import resource
import sys


def main(folder: str, file: str, out: str, memory: str, space: str, size: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (int(space), int(space)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)  # so that no folder's name is taken for a pattern
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
    rows.execute("SET allowed_paths = ?", [[file, out]])
    rows.execute("SET enable_external_access = false")
    rows.execute("SET lock_configuration = true")
    source, target = (text.replace("'", "''") for text in (file, out))  # names of ours
    table = f"read_parquet('{source}')"
    columns = rows.execute(f"DESCRIBE FROM {table}").fetchall()
    numbers = [name.replace('"', '""') for name, kind, *_ in columns if kind in ("FLOAT", "DOUBLE")]
    finite = ", ".join(
        f'CASE WHEN isfinite("{one}") THEN "{one}" END AS "{one}"' for one in numbers
    )
    chosen = f"* REPLACE ({finite})" if finite else "*"  # JSON has no NaN
    rows.execute(
        f"COPY (SELECT {chosen} FROM {table}) TO '{target}' (FORMAT json, USE_TMP_FILE false)"  # noqa: S608
    )


try:
    main(*sys.argv[1:])
except Exception as error:  # noqa: BLE001 - whatever it is, only this is to be known
    sys.exit(27 if "File too large" in str(error) else 1)
