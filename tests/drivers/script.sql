-- What psql can do beside plain queries; run twice on one server, so it leaves nothing behind.
\set VERBOSITY verbose
\set ON_ERROR_STOP 0
\timing off
\echo :VERSION_NUM
CREATE TEMP TABLE t (i int PRIMARY KEY, w text);
\copy t FROM PROGRAM 'seq 1 5 | sed "s/$/\tword/"'
COPY t FROM STDIN;
6	six
7	\N
\.
COPY t FROM STDIN;
8	eight
word	nine
\.
SELECT * FROM t ORDER BY i;
\copy (SELECT * FROM t ORDER BY i) TO PROGRAM 'cat >&2' WITH (FORMAT csv)
COPY t TO STDOUT (FORMAT csv, HEADER);
SELECT 'CREATE TEMP TABLE u' || i || ' ()' FROM t WHERE i < 3 \gexec
SELECT 1 AS one, 'two' AS two \gset
\echo :one :two
\set FETCH_COUNT 2
SELECT i, repeat('x', 10) FROM generate_series(1, 7) i;
\unset FETCH_COUNT
SELECT $1 + $2 AS sum \g
\gdesc
SELECT 1 AS a, now() AS b \gdesc
BEGIN;
SELECT 1/0;
SELECT 1;
ROLLBACK;
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT 1/0;
SELECT 'goes on';
COMMIT;
DO $$ BEGIN RAISE NOTICE 'said'; END $$;
LISTEN word;
UNLISTEN word;
\encoding LATIN1
\encoding
\df pg_sleep
\x
SELECT * FROM t WHERE i = 1;
\echo the last line
