/* What the parts of the compiled twin share. */
#ifndef SSLCONNECTOR_PUMP_H
#define SSLCONNECTOR_PUMP_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define SCRATCH_SIZE 65536
#define SLICE 65536

#if defined(_MSC_VER)
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

/* OpenSSL's functions, as the installed cryptography carries them. */
typedef struct {
    int (*ssl_read)(void *, void *, int);
    int (*ssl_write)(void *, const void *, int);
    int (*ssl_pending)(const void *);
    int (*bio_read)(void *, void *, int);
    int (*bio_write)(void *, const void *, int);
    unsigned long (*err_peek_error)(void);
    void (*err_clear_error)(void);
} OpenSSL;

extern OpenSSL openssl;

/* Outcome.DATA; the other outcomes are for Python to tell apart. */
extern PyObject *outcome_data;

typedef struct {
    PyObject_HEAD
    void *ssl;
    void *rbio;
    void *wbio;
    /* whole records that were fed and not decrypted */
    Py_ssize_t records;
    /* why the last decryption stopped */
    PyObject *outcome;
} Pump;

/* Decrypts at most budget whole records into target, without a look at the GIL. The number of bytes; result is what SSL_read gave last. */
Py_ssize_t pump_decrypt(Pump *self, char *target, Py_ssize_t size, Py_ssize_t budget, int *result);

/* Books why the decryption stopped. 0, or -1 with an exception. */
int pump_note_outcome(Pump *self, int result);

/* Adds the types of _lane.c to the module; nothing where there are no POSIX sockets. */
int add_lane_types(PyObject *module, PyTypeObject *pump_type);

#endif
