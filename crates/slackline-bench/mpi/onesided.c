/* A synchronous alltoall by one-sided calls beside one by messages: does MPI_Put pay? (docs/mpi.md has the answers.)
 *
 *   mpicc -O3 -o onesided onesided.c
 *   mpirun -n 2 ./onesided BYTES...
 *
 * put:   MPI_Put into one of two slots at the target, MPI_Win_flush, MPI_Accumulate (replace) of the round's number,
 *        MPI_Win_flush; the target looks at the numbers until all are there. A number of round n says that its sender has
 *        taken round n - 1, so the slot of round n + 1 is free and no credits are needed.
 * isend: MPI_Isend from two slots, MPI_Irecv posted one round ahead, MPI_Waitall.
 *
 * Prints one line of JSON for each way and size: microseconds of a round in each block, the slowest rank's.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 7, LINE = 64 };

static int rank, ranks;
static volatile unsigned long sink;
static MPI_Status *statuses;

static void fail(const char *what, long round, int peer)
{
    fprintf(stderr, "rank %d: %s, round %ld, rank %d\n", rank, what, round, peer);
    MPI_Abort(MPI_COMM_WORLD, 3);
}

static void *room(size_t bytes)
{
    void *memory = aligned_alloc(LINE, (bytes + 2 * LINE - 1) / LINE * LINE);
    if (!memory) fail("no memory", 0, rank);
    return memory;
}

/* Every round's message is written anew, and read, as a caller would. */
static void fill(unsigned char *slot, long bytes, long round) { memset(slot, (int)(round * 31 + rank * 7 + 1), bytes); }

static void look(const unsigned char *slot, long bytes, long round, int from)
{
    unsigned char wanted = (unsigned char)(round * 31 + from * 7 + 1);
    unsigned long sum = 0;
    for (long at = 0; at < bytes; at += LINE) sum += slot[at];
    sink += sum;
    if (slot[0] != wanted || slot[bytes - 1] != wanted) fail("wrong bytes", round, from);
}

struct put {
    MPI_Win window;
    unsigned char *mine, *staging;
    long bytes, slot;
};

/* A rank's window: for each peer a line with a counter, then two slots for each. */
static long counter_at(int from) { return (long)from * LINE; }
static long slot_at(const struct put *put, int from, long round)
{
    return (long)ranks * LINE + (from * 2 + round % 2) * put->slot;
}

static void put_round(struct put *put, long round)
{
    long number = round + 1;
    for (int step = 1; step < ranks; step++) {
        int to = (rank + step) % ranks;
        unsigned char *from = put->staging + to * put->slot;
        fill(from, put->bytes, round);
        MPI_Put(from, (int)put->bytes, MPI_BYTE, to, slot_at(put, rank, round), (int)put->bytes, MPI_BYTE, put->window);
    }
    for (int step = 1; step < ranks; step++) {
        int to = (rank + step) % ranks;
        MPI_Win_flush(to, put->window);
        MPI_Accumulate(&number, 1, MPI_LONG, to, counter_at(rank), 1, MPI_LONG, MPI_REPLACE, put->window);
    }
    MPI_Win_flush_all(put->window);
    for (int step = 1; step < ranks; step++) {
        int from = (rank + step) % ranks, flag;
        volatile long *counter = (volatile long *)(put->mine + counter_at(from));
        while (*counter < number) {
            /* Where the target has to help, this is what lets it. */
            MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
            MPI_Win_sync(put->window);
        }
        look(put->mine + slot_at(put, from, round), put->bytes, round, from);
    }
}

struct messages {
    unsigned char *out, *in;
    MPI_Request *sends, *receives;
    long bytes, slot;
};

static void post(struct messages *m, long round)
{
    for (int from = 0; from < ranks; from++)
        if (from != rank)
            MPI_Irecv(m->in + (from * 2 + round % 2) * m->slot, (int)m->bytes, MPI_BYTE, from, 0, MPI_COMM_WORLD,
                      &m->receives[round % 2 * ranks + from]);
}

static void message_round(struct messages *m, long round)
{
    MPI_Request *sends = m->sends + round % 2 * ranks;
    MPI_Waitall(ranks, sends, statuses);
    for (int step = 1; step < ranks; step++) {
        int to = (rank + step) % ranks;
        unsigned char *from = m->out + (to * 2 + round % 2) * m->slot;
        fill(from, m->bytes, round);
        MPI_Isend(from, (int)m->bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD, &sends[to]);
    }
    post(m, round);
    MPI_Waitall(ranks, m->receives + round % 2 * ranks, statuses);
    for (int step = 1; step < ranks; step++) {
        int from = (rank + step) % ranks;
        look(m->in + (from * 2 + round % 2) * m->slot, m->bytes, round, from);
    }
}

static void report(const char *way, long bytes, const double *times)
{
    if (rank) return;
    printf("{\"way\":\"%s\",\"ranks\":%d,\"bytes\":%ld,\"us\":[", way, ranks, bytes);
    for (int block = 0; block < BLOCKS; block++) printf("%s%.3f", block ? "," : "", times[block]);
    printf("]}\n");
    fflush(stdout);
}

static double timed(void (*round_of)(void *, long), void *state, long first, long rounds)
{
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = MPI_Wtime();
    for (long round = first; round < first + rounds; round++) round_of(state, round);
    double time = (MPI_Wtime() - begin) / rounds * 1e6, slowest;
    MPI_Allreduce(&time, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return slowest;
}

static void put_any(void *state, long round) { put_round(state, round); }
static void message_any(void *state, long round) { message_round(state, round); }

int main(int count, char **words)
{
    MPI_Init(&count, &words);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    statuses = room(2 * ranks * sizeof(MPI_Status));
    for (int word = 1; word < count; word++) {
        long bytes = atol(words[word]), slot = (bytes + LINE - 1) / LINE * LINE;
        if (bytes < 1 || bytes > 1L << 30) fail("not a size", 0, rank);
        long rounds = (1L << 27) / (bytes + 32768) / ranks + 20;
        double puts[BLOCKS], sends[BLOCKS];

        struct put put = {.bytes = bytes, .slot = slot, .staging = room(slot * ranks)};
        MPI_Aint size = (MPI_Aint)ranks * LINE + ranks * 2 * slot;
        MPI_Win_allocate(size, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &put.mine, &put.window);
        MPI_Win_lock_all(MPI_MODE_NOCHECK, put.window);
        memset(put.mine, 0, size);
        MPI_Win_sync(put.window);
        struct messages m = {.bytes = bytes, .slot = slot, .out = room(2 * slot * ranks), .in = room(2 * slot * ranks),
                             .sends = room(2 * ranks * sizeof(MPI_Request)),
                             .receives = room(2 * ranks * sizeof(MPI_Request))};
        for (int at = 0; at < 2 * ranks; at++) m.sends[at] = m.receives[at] = MPI_REQUEST_NULL;

        long first = 0;
        /* In turn, the first of each to warm up. */
        for (int block = -1; block < BLOCKS; block++, first += rounds) {
            double p = timed(put_any, &put, first, rounds), s = timed(message_any, &m, first, rounds);
            if (block >= 0) puts[block] = p, sends[block] = s;
        }
        MPI_Waitall(2 * ranks, m.sends, statuses);
        report("put", bytes, puts);
        report("isend", bytes, sends);
        MPI_Win_unlock_all(put.window);
        MPI_Win_free(&put.window);
        free(put.staging), free(m.out), free(m.in), free(m.sends), free(m.receives);
    }
    MPI_Finalize();
    return 0;
}
