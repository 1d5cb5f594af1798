/* The alltoallv of `slackline-bench exchange`, done by MPI: the same sizes, splits, buffers, checks and blocks.
 *
 *   mpicc -O3 -o alltoallv alltoallv.c
 *   mpirun -n 2 ./alltoallv READ LAG BLOCKS BYTES...
 *
 * READ is 1 to read one byte of every cache line that was received, else 0. LAG + 1 MPI_Ialltoallv are under way at once.
 * Prints one line of JSON for each call and size: microseconds of a round in each block, the slowest rank's.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static volatile unsigned long sink;

/* What rank FROM sends to rank TO, in bytes. */
static long split(int from, int to, long n) { return from == to ? n : from < to ? n * 5 / 4 : n * 3 / 4; }

static unsigned char content(long round, int from, int to, long at)
{
    return (unsigned char)(round * 31 + from * 7 + to * 13 + at * 3 + at / 251);
}

static void *room(size_t bytes)
{
    /* On a cache line, as the other side has it. */
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        MPI_Abort(MPI_COMM_WORLD, 4);
    }
    return memory;
}

int main(int count, char **words)
{
    MPI_Init(&count, &words);
    int rank, ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (count < 5) {
        if (rank == 0) fprintf(stderr, "usage: alltoallv READ LAG BLOCKS BYTES...\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    int read = atoi(words[1]), lag = atoi(words[2]), blocks = atoi(words[3]);
    double *times = room(sizeof(double) * blocks);
    int *sizes = room(sizeof(int) * 4 * ranks);
    MPI_Request *requests = room(sizeof(MPI_Request) * (lag + 1));
    unsigned char **received = room(sizeof(unsigned char *) * (lag + 1));
    int *send = sizes, *send_at = send + ranks, *receive = send_at + ranks, *receive_at = receive + ranks;

    for (int word = 4; word < count; word++) {
        long n = atol(words[word]), sends = 0, receives = 0;
        for (int peer = 0; peer < ranks; peer++) {
            send[peer] = (int)split(rank, peer, n), send_at[peer] = (int)sends, sends += send[peer];
            receive[peer] = (int)split(peer, rank, n), receive_at[peer] = (int)receives, receives += receive[peer];
        }
        unsigned char *source = room(sends);
        for (int i = 0; i <= lag; i++) received[i] = room(receives);
        long rounds = (1L << 29) / (n + 65536);
        rounds = rounds > 20000 ? 20000 : rounds < 20 ? 20 : rounds;

        for (int call = 0; call < 2; call++) {
            int depth = call ? lag + 1 : 1;
            /* A blocking alltoallv cannot lag. */
            if (!call && lag) continue;
            for (long round = 0; round < 4; round++) {
                for (int to = 0; to < ranks; to++)
                    for (long at = 0; at < send[to]; at++) source[send_at[to] + at] = content(round, rank, to, at);
                if (call) {
                    MPI_Ialltoallv(source, send, send_at, MPI_BYTE, received[0], receive, receive_at, MPI_BYTE,
                                   MPI_COMM_WORLD, &requests[0]);
                    MPI_Wait(&requests[0], MPI_STATUS_IGNORE);
                } else {
                    MPI_Alltoallv(source, send, send_at, MPI_BYTE, received[0], receive, receive_at, MPI_BYTE,
                                  MPI_COMM_WORLD);
                }
                for (int from = 0; from < ranks; from++)
                    for (long at = 0; at < receive[from]; at++)
                        if (received[0][receive_at[from] + at] != content(round, from, rank, at)) {
                            fprintf(stderr, "rank %d: wrong byte %ld from rank %d in round %ld\n", rank, at, from, round);
                            MPI_Abort(MPI_COMM_WORLD, 3);
                        }
            }
            for (int block = -1; block < blocks; block++) {
                MPI_Barrier(MPI_COMM_WORLD);
                double begin = MPI_Wtime();
                for (long round = 0; round < rounds + depth - 1; round++) {
                    if (round < rounds) {
                        unsigned char *into = received[round % depth];
                        if (call)
                            MPI_Ialltoallv(source, send, send_at, MPI_BYTE, into, receive, receive_at, MPI_BYTE,
                                           MPI_COMM_WORLD, &requests[round % depth]);
                        else
                            MPI_Alltoallv(source, send, send_at, MPI_BYTE, into, receive, receive_at, MPI_BYTE,
                                          MPI_COMM_WORLD);
                    }
                    long done = round - depth + 1;
                    if (done >= 0) {
                        if (call) MPI_Wait(&requests[done % depth], MPI_STATUS_IGNORE);
                        if (read) {
                            unsigned long sum = 0;
                            for (long at = 0; at < receives; at += 64) sum += received[done % depth][at];
                            sink += sum;
                        }
                    }
                }
                double time = (MPI_Wtime() - begin) / rounds * 1e6, slowest;
                MPI_Reduce(&time, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
                if (block >= 0) times[block] = slowest;
            }
            if (rank == 0) {
                printf("{\"call\":\"%s\",\"bytes\":%ld,\"us\":[", call ? "Ialltoallv" : "Alltoallv", n);
                for (int block = 0; block < blocks; block++) printf("%s%.4f", block ? "," : "", times[block]);
                printf("]}\n");
                fflush(stdout);
            }
        }
        free(source);
        for (int i = 0; i <= lag; i++) free(received[i]);
    }
    MPI_Finalize();
    return 0;
}
