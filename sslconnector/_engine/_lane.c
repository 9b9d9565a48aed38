/* The turn of a connection over a socket, in C: recv, decrypt, hand to the application, encrypt what it writes, send.
 *
 * The twin of lane.py, call for call; what a lane is and may do is told there.
 *
 * The GIL is kept: a turn moves 72 KiB at most, and nothing in it waits.
 */
#include "_pump.h"

#ifdef _WIN32

int
add_lane_types(PyObject *module, PyTypeObject *pump_type)
{
    (void)module;
    (void)pump_type;
    return 0;
}

#else

#include <errno.h>
#include <structmember.h>
#include <sys/socket.h>
#include <sys/types.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <unistd.h>
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

#define HEADER 5
#define MAX_BODY (MAX_PLAINTEXT + 2048)
#define MAX_PLAINTEXT 16384
/* Four of the largest records: Limits.receive_buffer at most. */
#define MOST_RECEIVED (4 * (HEADER + MAX_BODY))
/* What four records of plaintext become at most. */
#define MOST_SENT (SLICE + 8 * 256)
/* As in asyncio/protocol.py: reads in one turn, and what the application writes in its turn before it is sent anyway. */
#define READS_PER_TURN 4
#define MOST_UNSENT SLICE
/* As in connector.py: what makes OpenSSL's buffers worth shrinking later. */
#define SMALL 1024
/* Larger plaintext is decrypted into its bytes object, without a copy. */
#define COPIED 2048

static THREAD_LOCAL char wire_scratch[MOST_RECEIVED > MOST_SENT ? MOST_RECEIVED : MOST_SENT];
static THREAD_LOCAL char plain_scratch[COPIED];

static PyTypeObject *the_pump_type;
static PyTypeObject *the_lane_type;
static PyObject *minus_one;

/* Names of methods that are called. */
static PyObject *name_readable, *name_writable, *name_ended, *name_lost, *name_enqueue, *name_left, *name_stopped, *name_raised, *name_grown,
    *name_write_failed, *name_patient;

typedef struct {
    long long received, sent, read, written, records_read, records_written;
} Counts;

typedef struct {
    PyObject_HEAD
    int fd;
    /* the connection is lent; a turn of the lane's is running; the wire has something queued; OpenSSL's buffers have not grown yet; it was
       not lent yet: the handshake is not done */
    char lent, in_turn, queued, small, patient;
    PyObject *wire, *protocol, *slow_write;
    /* while it is lent: OpenSSL's side, the application's calls (deliver, or the two of a buffered protocol) */
    Pump *pump;
    PyObject *deliver, *get_buffer;
    Py_ssize_t records_per_read, window, unsent, fed;
    long long records_left;
    Counts counts;
    /* RecordWalker's: how much of the record at hand is missing, its size, and the part of a header that came */
    Py_ssize_t missing, size;
    int header_length;
    unsigned char header[HEADER];
} Lane;

/* -- records ------------------------------------------------------------------------------------------------------------------- */

/* As in records.py: what OpenSSL refuses by its header is complete with it. */
static Py_ssize_t
body_size(const unsigned char *header)
{
    Py_ssize_t size = header[3] << 8 | header[4];
    return header[1] == 3 && size <= MAX_BODY ? size : 0;
}

/* RecordWalker.walk: how many records are complete with this. */
static Py_ssize_t
walk(Lane *self, const unsigned char *data, Py_ssize_t size)
{
    Py_ssize_t position = 0, complete = 0;
    if (self->missing) {
        if (self->missing > size) {
            self->missing -= size;
            return 0;
        }
        position = self->missing;
        self->missing = 0;
        complete = 1;
    }
    while (position < size) {
        while (self->header_length < HEADER && position < size)
            self->header[self->header_length++] = data[position++];
        if (self->header_length < HEADER)
            break;
        Py_ssize_t body = body_size(self->header);
        self->header_length = 0;
        self->size = HEADER + body;
        if (body > size - position) {
            self->missing = body - (size - position);
            break;
        }
        position += body;
        complete++;
    }
    return complete;
}

/* -- giving it back ------------------------------------------------------------------------------------------------------------ */

/* Calls a method of the protocol's or the wire's for its effect. */
static int
tell(PyObject *whom, PyObject *name, PyObject *argument)
{
    if (whom == NULL)
        return 0;
    Py_INCREF(whom);
    PyObject *result = argument == NULL ? PyObject_CallMethodNoArgs(whom, name) : PyObject_CallMethodOneArg(whom, name, argument);
    Py_DECREF(whom);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The exception that is set, which is then no longer set. */
static PyObject *
take_exception(void)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
}

/* The socket failed. */
static int
tell_lost(Lane *self)
{
    PyErr_SetFromErrno(PyExc_OSError);
    PyObject *error = take_exception();
    int result = tell(self->wire, name_lost, error);
    Py_XDECREF(error);
    return result;
}

/* The application raised. */
static int
tell_raised(Lane *self)
{
    PyObject *error = take_exception();
    int result = tell(self->protocol, name_raised, error);
    Py_XDECREF(error);
    return result;
}

/* -- out ----------------------------------------------------------------------------------------------------------------------- */

/* Takes the output and sends it; what the socket does not take the wire keeps. */
static int
flush(Lane *self)
{
    void *wbio = self->pump->wbio;
    int got;
    self->unsent = 0;
    while ((got = openssl.bio_read(wbio, wire_scratch, sizeof wire_scratch)) > 0) {
        self->counts.sent += got;
        Py_ssize_t sent = 0;
        if (!self->queued) {
            do
                sent = send(self->fd, wire_scratch, got, MSG_NOSIGNAL);
            while (sent < 0 && errno == EINTR);
            if (sent < 0) {
                if (errno != EAGAIN && errno != EWOULDBLOCK)
                    return tell_lost(self);
                sent = 0;
            }
        }
        if (sent < got) {
            PyObject *rest = PyBytes_FromStringAndSize(wire_scratch + sent, got - sent);
            if (rest == NULL)
                return -1;
            int result = tell(self->wire, name_enqueue, rest);
            Py_DECREF(rest);
            if (result < 0 || !self->lent)
                return result;
        }
        if (got < (int)sizeof wire_scratch)
            break;
    }
    return 0;
}

/* After a turn, or a write outside of one. */
static int
settle(Lane *self, Py_ssize_t largest)
{
    if (self->unsent && flush(self) < 0)
        return -1;
    if (!self->lent)
        return 0;
    if (largest > SMALL && self->small) {
        self->small = 0;
        if (tell(self->protocol, name_grown, NULL) < 0)
            return -1;
    }
    if (self->lent && (self->counts.records_read >= self->records_left || self->counts.records_written >= self->records_left))
        return tell(self->protocol, name_left, NULL);
    return 0;
}

/* write(data): the transport's */
static PyObject *
lane_write(Lane *self, PyObject *data)
{
    Py_buffer view;
    if (!self->lent || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        if (self->slow_write == NULL)
            Py_RETURN_NONE;
        return PyObject_CallOneArg(self->slow_write, data);
    }
    Py_ssize_t size = view.len;
    if (size == 0 || size > SLICE) {
        PyBuffer_Release(&view);
        return PyObject_CallOneArg(self->slow_write, data);
    }
    if (openssl.err_peek_error())
        openssl.err_clear_error();
    int written = openssl.ssl_write(self->pump->ssl, view.buf, (int)size);
    PyBuffer_Release(&view);
    if (written != size) {
        if (tell(self->protocol, name_write_failed, NULL) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    self->counts.written += size;
    self->counts.records_written += (size + MAX_PLAINTEXT - 1) / MAX_PLAINTEXT;
    self->unsent += size;
    int result = 0;
    if (!self->in_turn)
        result = settle(self, size);
    else if (self->unsent > MOST_UNSENT)
        result = flush(self);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* -- in ------------------------------------------------------------------------------------------------------------------------ */

/* Decrypts into a new bytes object. */
static PyObject *
decrypt_bytes(Lane *self, int *result)
{
    /* Plaintext is shorter than its ciphertext by a header and a tag, at least. */
    Py_ssize_t room = self->fed < SCRATCH_SIZE ? self->fed : SCRATCH_SIZE;
    if (room <= COPIED) {
        Py_ssize_t got = pump_decrypt(self->pump, plain_scratch, sizeof plain_scratch, self->records_per_read, result);
        return PyBytes_FromStringAndSize(plain_scratch, got);
    }
    if (room > HEADER + 16 + 1)
        room -= HEADER + 16 + 1;
    PyObject *data = PyBytes_FromStringAndSize(NULL, room);
    if (data == NULL)
        return NULL;
    Py_ssize_t got = pump_decrypt(self->pump, PyBytes_AS_STRING(data), room, self->records_per_read, result);
    if (got < room)
        _PyBytes_Resize(&data, got);
    return data;
}

/* One read and its delivery. 1: done, -1: an exception, 0: the rest of the turn is not for the lane. */
static int
deliver(Lane *self)
{
    Pump *pump = self->pump;
    Py_ssize_t before = pump->records, got;
    int result = 1;
    PyObject *data, *answer;
    if (self->get_buffer == NULL) {
        data = decrypt_bytes(self, &result);
        if (data == NULL)
            return -1;
        got = PyBytes_GET_SIZE(data);
    }
    else {
        Py_buffer view;
        PyObject *buffer = PyObject_CallOneArg(self->get_buffer, minus_one);
        if (buffer == NULL)
            return tell_raised(self) < 0 ? -1 : 0;
        if (!self->lent) {
            /* The call closed or paused it. */
            Py_DECREF(buffer);
            return 0;
        }
        int usable = PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) == 0;
        Py_DECREF(buffer);
        if (!usable || view.len == 0) {
            /* The slow way asks again, and says what is wrong with it. */
            if (usable)
                PyBuffer_Release(&view);
            PyErr_Clear();
            return 0;
        }
        got = pump_decrypt(pump, view.buf, view.len, self->records_per_read, &result);
        PyBuffer_Release(&view);
        data = PyLong_FromSsize_t(got);
        if (data == NULL)
            return -1;
    }
    if (result <= 0) {
        /* Not plain data. What came before it is delivered with what it means. */
        int told = -1;
        if (pump_note_outcome(pump, result) == 0) {
            PyObject *stopped = Py_BuildValue("(OnnO)", data, got, before, self->get_buffer == NULL ? Py_False : Py_True);
            if (stopped != NULL) {
                told = tell(self->protocol, name_stopped, stopped);
                Py_DECREF(stopped);
            }
        }
        Py_DECREF(data);
        return told;
    }
    self->counts.read += got;
    self->counts.records_read += before - pump->records;
    PyObject *function = self->deliver;
    Py_INCREF(function);
    answer = PyObject_CallOneArg(function, data);
    Py_DECREF(function);
    Py_DECREF(data);
    if (answer == NULL)
        return tell_raised(self) < 0 ? -1 : 0;
    Py_DECREF(answer);
    return 1;
}

/* What the loop calls. 0, or -1 with an exception. */
static int
on_readable(Lane *self)
{
    if (!self->lent)
        return tell(self->wire, name_readable, NULL);
    Py_ssize_t tail = self->missing ? self->size - self->missing : self->header_length;
    Py_ssize_t size = recv(self->fd, wire_scratch, self->window - tail, 0);
    if (size <= 0) {
        if (size == 0)
            return tell(self->wire, name_ended, NULL);
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : tell_lost(self);
    }
    Pump *pump = self->pump;
    self->counts.received += size;
    self->fed = tail + size;
    Py_ssize_t records = walk(self, (unsigned char *)wire_scratch, size);
    openssl.bio_write(pump->rbio, wire_scratch, (int)size);
    pump->records += records;
    int going = 1;
    self->in_turn = 1;
    for (int reads = 0; going > 0 && self->lent && pump->records > 0; reads++) {
        /* After some reads others come first; the slow way schedules the rest. */
        going = reads < READS_PER_TURN ? deliver(self) : 0;
    }
    self->in_turn = 0;
    if (going < 0)
        return -1;
    return going && self->lent ? settle(self, size) : tell(self->protocol, name_left, NULL);
}

/* -- for Python ---------------------------------------------------------------------------------------------------------------- */

static PyObject *
lane_readable(Lane *self, PyObject *Py_UNUSED(ignored))
{
    if (on_readable(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
lane_writable(Lane *self, PyObject *Py_UNUSED(ignored))
{
    if (tell(self->wire, name_writable, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* lend(pump, deliver, get_buffer or None, (header, size, missing), records_per_read, window, records_left, small) */
static PyObject *
lane_lend(Lane *self, PyObject *args)
{
    PyObject *pump, *function, *get_buffer;
    const char *header;
    Py_ssize_t header_length, size, missing, per_read, window;
    long long left;
    int small;
    if (!PyArg_ParseTuple(args, "O!OO(y#nn)nnLp", the_pump_type, &pump, &function, &get_buffer, &header, &header_length, &size, &missing,
                          &per_read, &window, &left, &small))
        return NULL;
    Py_ssize_t tail = missing ? size - missing : header_length;
    if (self->wire == NULL || header_length >= HEADER || ((Pump *)pump)->ssl == NULL || tail < 0 || window <= tail) {
        PyErr_SetString(PyExc_RuntimeError, "the lane cannot take this");
        return NULL;
    }
    Py_INCREF(pump);
    Py_XSETREF(self->pump, (Pump *)pump);
    Py_INCREF(function);
    Py_XSETREF(self->deliver, function);
    Py_XSETREF(self->get_buffer, get_buffer == Py_None ? NULL : Py_NewRef(get_buffer));
    memcpy(self->header, header, header_length);
    self->header_length = (int)header_length;
    self->size = size;
    self->missing = missing;
    self->records_per_read = per_read;
    self->window = window < MOST_RECEIVED ? window : MOST_RECEIVED;
    self->records_left = left;
    self->small = (char)small;
    self->unsent = 0;
    self->patient = 0;
    self->lent = 1;
    Py_RETURN_NONE;
}

static PyObject *
counts_tuple(Lane *self)
{
    Counts *c = &self->counts;
    return Py_BuildValue("(LLLLLL)", c->received, c->sent, c->read, c->written, c->records_read, c->records_written);
}

/* counts() -> ciphertext received and sent, plaintext read and written, records read and written since lend() */
static PyObject *
lane_counts(Lane *self, PyObject *Py_UNUSED(ignored))
{
    return counts_tuple(self);
}

/* take_back() -> (counts, (header, size, missing)): the lane does nothing of its own any more. */
static PyObject *
lane_take_back(Lane *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *counts = counts_tuple(self);
    if (counts == NULL)
        return NULL;
    self->lent = 0;
    memset(&self->counts, 0, sizeof self->counts);
    return Py_BuildValue("(N(y#nn))", counts, self->header, (Py_ssize_t)self->header_length, self->size, self->missing);
}

static int
lane_clear(Lane *self)
{
    self->lent = 0;
    Py_CLEAR(self->wire);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->slow_write);
    Py_CLEAR(self->pump);
    Py_CLEAR(self->deliver);
    Py_CLEAR(self->get_buffer);
    return 0;
}

/* close(): the socket is gone; refers to nothing any more */
static PyObject *
lane_close(Lane *self, PyObject *Py_UNUSED(ignored))
{
    self->fd = -1;
    lane_clear(self);
    Py_RETURN_NONE;
}

static int
lane_traverse(Lane *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->wire);
    Py_VISIT(self->protocol);
    Py_VISIT(self->slow_write);
    Py_VISIT(self->pump);
    Py_VISIT(self->deliver);
    Py_VISIT(self->get_buffer);
    return 0;
}

static void
lane_dealloc(Lane *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    lane_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* Lane(sock, wire, protocol, slow_write) */
static int
lane_init(Lane *self, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *sock, *wire, *protocol, *slow_write;
    if (!PyArg_ParseTuple(args, "OOOO", &sock, &wire, &protocol, &slow_write))
        return -1;
    self->fd = PyObject_AsFileDescriptor(sock);
    if (self->fd < 0)
        return -1;
    self->patient = 1;
    Py_XSETREF(self->wire, Py_NewRef(wire));
    Py_XSETREF(self->protocol, Py_NewRef(protocol));
    Py_XSETREF(self->slow_write, Py_NewRef(slow_write));
    return 0;
}

#define METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))lane_##name, flags, NULL}

static PyMethodDef lane_methods[] = {
    METHOD(readable, METH_NOARGS),
    METHOD(writable, METH_NOARGS),
    METHOD(write, METH_O),
    METHOD(lend, METH_VARARGS),
    METHOD(counts, METH_NOARGS),
    METHOD(take_back, METH_NOARGS),
    METHOD(close, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lane_members[] = {
    {"lent", T_BOOL, offsetof(Lane, lent), READONLY, NULL},
    {"in_turn", T_BOOL, offsetof(Lane, in_turn), READONLY, NULL},
    {"queued", T_BOOL, offsetof(Lane, queued), 0, NULL},
    {"patient", T_BOOL, offsetof(Lane, patient), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_init, lane_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_traverse, lane_traverse},
    {Py_tp_clear, lane_clear},
    {Py_tp_methods, lane_methods},
    {Py_tp_members, lane_members},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "sslconnector._engine._pump.Lane",
    .basicsize = sizeof(Lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = lane_slots,
};

/* -- who is ready -------------------------------------------------------------------------------------------------------------- */

#ifdef __linux__

/* asyncio/poller.py's EpollSet, without a Python call for each lane. */
#define MOST_READY 256

typedef struct {
    PyObject *watched, *context;
    int mask;
} Entry;

typedef struct {
    PyObject_HEAD
    int fd, batch;
    PyObject *failed;
    /* by descriptor */
    Entry *entries;
    int room;
    Py_ssize_t count;
} EpollSet;

static Entry *
find(EpollSet *self, int fd)
{
    return fd >= 0 && fd < self->room && self->entries[fd].watched != NULL ? &self->entries[fd] : NULL;
}

static int
control(EpollSet *self, int fd, int before, int mask)
{
    struct epoll_event event = {.events = (uint32_t)mask, .data.fd = fd};
    if (before == mask)
        return 0;
    /* Errors are reported even to who asked for nothing: then it is taken out. */
    int operation = !before ? EPOLL_CTL_ADD : mask ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    if (epoll_ctl(self->fd, operation, fd, &event) == 0)
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* watch(fd, watched, mask) */
static PyObject *
set_watch(EpollSet *self, PyObject *args)
{
    int fd, mask;
    PyObject *watched;
    if (!PyArg_ParseTuple(args, "iOi", &fd, &watched, &mask))
        return NULL;
    if (fd < 0 || find(self, fd) != NULL) {
        PyErr_Format(PyExc_ValueError, "descriptor %d cannot be watched, or is already", fd);
        return NULL;
    }
    if (fd >= self->room) {
        int room = fd < 64 ? 128 : fd * 2;
        Entry *entries = PyMem_Realloc(self->entries, room * sizeof *entries);
        if (entries == NULL)
            return PyErr_NoMemory();
        memset(entries + self->room, 0, (room - self->room) * sizeof *entries);
        self->entries = entries;
        self->room = room;
    }
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL)
        return NULL;
    if (control(self, fd, 0, mask) < 0) {
        Py_DECREF(context);
        return NULL;
    }
    self->entries[fd] = (Entry){Py_NewRef(watched), context, mask};
    self->count++;
    Py_RETURN_NONE;
}

static Entry *
find_or_raise(EpollSet *self, int fd)
{
    Entry *entry = find(self, fd);
    if (entry == NULL)
        PyErr_Format(PyExc_KeyError, "%d", fd);
    return entry;
}

/* change(fd, mask) */
static PyObject *
set_change(EpollSet *self, PyObject *args)
{
    int fd, mask;
    if (!PyArg_ParseTuple(args, "ii", &fd, &mask))
        return NULL;
    Entry *entry = find_or_raise(self, fd);
    if (entry == NULL || control(self, fd, entry->mask, mask) < 0)
        return NULL;
    entry->mask = mask;
    Py_RETURN_NONE;
}

/* forget(fd) */
static PyObject *
set_forget(EpollSet *self, PyObject *number)
{
    int fd = (int)PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    Entry *entry = find_or_raise(self, fd);
    if (entry == NULL || control(self, fd, entry->mask, 0) < 0)
        return NULL;
    Entry old = *entry;
    *entry = (Entry){NULL, NULL, 0};
    self->count--;
    Py_DECREF(old.watched);
    Py_DECREF(old.context);
    Py_RETURN_NONE;
}

/* Calls one that is ready, in its context. */
static int
call(Entry *entry, int readable)
{
    PyObject *watched = Py_NewRef(entry->watched), *context = Py_NewRef(entry->context);
    int result = PyContext_Enter(context);
    if (result == 0) {
        if (readable && Py_IS_TYPE(watched, the_lane_type))
            result = on_readable((Lane *)watched);
        else
            result = tell(watched, readable ? name_readable : name_writable, NULL);
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        if (PyContext_Exit(context) < 0)
            PyErr_Clear();
        PyErr_Restore(type, error, traceback);
    }
    Py_DECREF(watched);
    Py_DECREF(context);
    return result;
}

/* Whether others come first. */
static int
is_patient(EpollSet *self, int fd)
{
    Entry *entry = find(self, fd);
    if (entry == NULL)
        return 0;
    if (Py_IS_TYPE(entry->watched, the_lane_type))
        return ((Lane *)entry->watched)->patient;
    PyObject *patient = PyObject_GetAttr(entry->watched, name_patient);
    int result = patient == NULL ? -1 : PyObject_IsTrue(patient);
    Py_XDECREF(patient);
    if (result < 0)
        PyErr_Clear();
    return result > 0;
}

/* Calls one that is ready. 0, or -1 with an exception that ends the loop. */
static int
serve_one(EpollSet *self, struct epoll_event *event)
{
    for (int writable = 0; writable < 2; writable++) {
        /* Those called before may have forgotten it, or changed what it is watched for. */
        Entry *entry = find(self, event->data.fd);
        uint32_t kind = writable ? EPOLLOUT : EPOLLIN;
        if (entry == NULL || !(entry->mask & kind) || !(event->events & (kind | EPOLLERR | EPOLLHUP)) || call(entry, !writable) == 0)
            continue;
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PyObject *error = take_exception();
        /* The callback may have closed this set: then there is nobody left to tell. */
        PyObject *told = self->failed == NULL ? Py_NewRef(Py_None) : PyObject_CallOneArg(self->failed, error);
        Py_XDECREF(error);
        if (told == NULL)
            return -1;
        Py_DECREF(told);
    }
    return 0;
}

/* serve(): calls who is ready; of the patient ones only the first */
static PyObject *
set_serve(EpollSet *self, PyObject *Py_UNUSED(ignored))
{
    struct epoll_event ready[MOST_READY];
    int count = epoll_wait(self->fd, ready, self->batch, 0), patient = -1;
    for (int i = 0; i < count; i++) {
        if (is_patient(self, ready[i].data.fd)) {
            if (patient < 0)
                patient = i;
        }
        else if (serve_one(self, &ready[i]) < 0)
            return NULL;
    }
    if (patient >= 0 && serve_one(self, &ready[patient]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
set_fileno(EpollSet *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->fd);
}

static int
set_clear(EpollSet *self)
{
    Py_CLEAR(self->failed);
    Entry *entries = self->entries;
    int room = self->room;
    self->entries = NULL;
    self->room = 0;
    self->count = 0;
    for (int i = 0; i < room; i++) {
        Py_XDECREF(entries[i].watched);
        Py_XDECREF(entries[i].context);
    }
    PyMem_Free(entries);
    return 0;
}

static PyObject *
set_close(EpollSet *self, PyObject *Py_UNUSED(ignored))
{
    if (self->fd >= 0)
        close(self->fd);
    self->fd = -1;
    set_clear(self);
    Py_RETURN_NONE;
}

static Py_ssize_t
set_length(EpollSet *self)
{
    return self->count;
}

static int
set_traverse(EpollSet *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->failed);
    for (int i = 0; i < self->room; i++) {
        Py_VISIT(self->entries[i].watched);
        Py_VISIT(self->entries[i].context);
    }
    return 0;
}

static void
set_dealloc(EpollSet *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->fd >= 0)
        close(self->fd);
    set_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* EpollSet(batch, failed) */
static PyObject *
set_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int batch;
    PyObject *failed;
    if (!PyArg_ParseTuple(args, "iO", &batch, &failed))
        return NULL;
    EpollSet *self = (EpollSet *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->batch = batch < 1 ? 1 : batch > MOST_READY ? MOST_READY : batch;
    self->failed = Py_NewRef(failed);
    self->fd = epoll_create1(EPOLL_CLOEXEC);
    if (self->fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

#define SET_METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))set_##name, flags, NULL}

static PyMethodDef set_methods[] = {
    SET_METHOD(watch, METH_VARARGS),
    SET_METHOD(change, METH_VARARGS),
    SET_METHOD(forget, METH_O),
    SET_METHOD(serve, METH_NOARGS),
    SET_METHOD(fileno, METH_NOARGS),
    SET_METHOD(close, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot set_slots[] = {
    {Py_tp_new, set_new},
    {Py_tp_dealloc, set_dealloc},
    {Py_tp_traverse, set_traverse},
    {Py_tp_clear, set_clear},
    {Py_tp_methods, set_methods},
    {Py_sq_length, set_length},
    {0, NULL},
};

static PyType_Spec set_spec = {
    .name = "sslconnector._engine._pump.EpollSet",
    .basicsize = sizeof(EpollSet),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = set_slots,
};

#endif /* __linux__ */

static PyTypeObject *
add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (type == NULL)
        return NULL;
    Py_INCREF(type);
    if (PyModule_AddObject(module, name, type) < 0) {
        Py_DECREF(type);
        Py_DECREF(type);
        return NULL;
    }
    return (PyTypeObject *)type;
}

int
add_lane_types(PyObject *module, PyTypeObject *pump_type)
{
    struct {
        PyObject **place;
        const char *name;
    } names[] = {
        {&name_readable, "readable"}, {&name_writable, "writable"},
        {&name_ended, "ended"},       {&name_lost, "lost"},
        {&name_enqueue, "enqueue"},   {&name_left, "lane_left"},
        {&name_raised, "lane_raised"}, {&name_stopped, "lane_stopped"},
        {&name_grown, "lane_grown"},  {&name_write_failed, "lane_write_failed"},
        {&name_patient, "patient"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((*names[i].place = PyUnicode_InternFromString(names[i].name)) == NULL)
            return -1;
    the_pump_type = pump_type;
    minus_one = PyLong_FromLong(-1);
    the_lane_type = add_type(module, "Lane", &lane_spec);
    if (minus_one == NULL || the_lane_type == NULL)
        return -1;
#ifdef __linux__
    if (add_type(module, "EpollSet", &set_spec) == NULL)
        return -1;
#endif
    return 0;
}

#endif /* _WIN32 */
