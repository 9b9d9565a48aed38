/* The compiled twin's data flows: what direct.py does in Python, call for call, in one call of C.
 *
 * It links to no OpenSSL. It is handed the addresses of the functions that the installed cryptography carries, so that it always uses the
 * same OpenSSL as everything else. The GIL is released around each run of OpenSSL's functions; a Pump is used by one thread at a time,
 * which the connector sees to.
 */
#include "_pump.h"

#include <structmember.h>

OpenSSL openssl;
PyObject *outcome_data;

static PyObject *name_stopped;
static PyObject *name_write_failed;

static THREAD_LOCAL char scratch[SCRATCH_SIZE];

static int
is_ready(Pump *self)
{
    if (self->ssl != NULL && openssl.ssl_read != NULL)
        return 1;
    PyErr_SetString(PyExc_RuntimeError, "the pump is not attached");
    return 0;
}

static int
argument_count(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", name, wanted, given);
    return 0;
}

/* attach(ssl, rbio, wbio): addresses, as numbers */
static PyObject *
pump_attach(Pump *self, PyObject *const *args, Py_ssize_t count)
{
    if (!argument_count("attach", count, 3))
        return NULL;
    void *ssl = PyLong_AsVoidPtr(args[0]);
    void *rbio = PyLong_AsVoidPtr(args[1]);
    void *wbio = PyLong_AsVoidPtr(args[2]);
    if (PyErr_Occurred())
        return NULL;
    self->ssl = ssl;
    self->rbio = rbio;
    self->wbio = wbio;
    Py_RETURN_NONE;
}

/* feed(data, size) */
static PyObject *
pump_feed(Pump *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    if (!argument_count("feed", count, 2) || !is_ready(self) || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    openssl.bio_write(self->rbio, data.buf, (int)data.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    Py_RETURN_NONE;
}

Py_ssize_t
pump_decrypt(Pump *self, char *target, Py_ssize_t size, Py_ssize_t budget, int *last)
{
    Py_ssize_t left = self->records < budget ? self->records : budget;
    Py_ssize_t kept = self->records - left;
    Py_ssize_t got = 0;
    int result = 1;
    if (size > INT_MAX)
        size = INT_MAX;
    if (openssl.err_peek_error())
        openssl.err_clear_error();
    while (left > 0) {
        result = openssl.ssl_read(self->ssl, target + got, (int)(size - got));
        left--;
        if (result <= 0)
            break;
        got += result;
        if (got == size) {
            /* A full buffer: the rest of the record, if there is one, comes with the next call. */
            if (openssl.ssl_pending(self->ssl) > 0)
                left++;
            break;
        }
    }
    self->records = kept + left;
    *last = result;
    return got;
}

int
pump_note_outcome(Pump *self, int result)
{
    PyObject *outcome;
    if (result > 0) {
        outcome = outcome_data;
        Py_INCREF(outcome);
    }
    else {
        outcome = PyObject_CallMethodNoArgs((PyObject *)self, name_stopped);
        if (outcome == NULL)
            return -1;
    }
    Py_XSETREF(self->outcome, outcome);
    return 0;
}

/* The same with the GIL released. Returns the number of bytes, or -1 with an exception. */
static Py_ssize_t
decrypt(Pump *self, char *target, Py_ssize_t size, Py_ssize_t budget)
{
    Py_ssize_t got;
    int result;
    Py_BEGIN_ALLOW_THREADS
    got = pump_decrypt(self, target, size, budget, &result);
    Py_END_ALLOW_THREADS
    return pump_note_outcome(self, result) < 0 ? -1 : got;
}

/* decrypt_into(buffer, budget) -> int */
static PyObject *
pump_decrypt_into(Pump *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer buffer;
    if (!argument_count("decrypt_into", count, 2) || !is_ready(self))
        return NULL;
    Py_ssize_t budget = PyLong_AsSsize_t(args[1]);
    if (budget == -1 && PyErr_Occurred())
        return NULL;
    if (PyObject_GetBuffer(args[0], &buffer, PyBUF_WRITABLE) < 0 || buffer.len == 0) {
        if (!PyErr_Occurred())
            PyBuffer_Release(&buffer);
        PyErr_Clear();
        /* says what is wrong with it, in the words of all twins */
        PyObject *size = PyObject_CallMethod((PyObject *)self, "check_buffer", "O", args[0]);
        if (size != NULL) {
            Py_DECREF(size);
            PyErr_SetString(PyExc_TypeError, "buffer must be contiguous, writable and not empty");
        }
        return NULL;
    }
    Py_ssize_t got = decrypt(self, buffer.buf, buffer.len, budget);
    PyBuffer_Release(&buffer);
    return got < 0 ? NULL : PyLong_FromSsize_t(got);
}

/* decrypt_bytes(size, budget) -> bytes */
static PyObject *
pump_decrypt_bytes(Pump *self, PyObject *const *args, Py_ssize_t count)
{
    if (!argument_count("decrypt_bytes", count, 2) || !is_ready(self))
        return NULL;
    Py_ssize_t size = PyLong_AsSsize_t(args[0]);
    Py_ssize_t budget = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (size > SCRATCH_SIZE)
        size = SCRATCH_SIZE;
    Py_ssize_t got = decrypt(self, scratch, size, budget);
    return got < 0 ? NULL : PyBytes_FromStringAndSize(scratch, got);
}

/* encrypt(data, size) */
static PyObject *
pump_encrypt(Pump *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    if (!argument_count("encrypt", count, 2) || !is_ready(self) || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    int result;
    Py_BEGIN_ALLOW_THREADS
    if (openssl.err_peek_error())
        openssl.err_clear_error();
    result = openssl.ssl_write(self->ssl, data.buf, (int)data.len);
    Py_END_ALLOW_THREADS
    int whole = result == (int)data.len;
    PyBuffer_Release(&data);
    if (!whole)
        return PyObject_CallMethodNoArgs((PyObject *)self, name_write_failed);
    Py_RETURN_NONE;
}

/* encrypt_slices(data, room) -> bytes: all the output there is, room bytes at most */
static PyObject *
pump_encrypt_slices(Pump *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    if (!argument_count("encrypt_slices", count, 2) || !is_ready(self))
        return NULL;
    Py_ssize_t room = PyLong_AsSsize_t(args[1]);
    if (room == -1 && PyErr_Occurred())
        return NULL;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *chunk = PyBytes_FromStringAndSize(NULL, room);
    if (chunk == NULL) {
        PyBuffer_Release(&data);
        return NULL;
    }
    char *out = PyBytes_AS_STRING(chunk);
    Py_ssize_t done = 0, filled = 0;
    int whole = 1;
    Py_BEGIN_ALLOW_THREADS
    if (openssl.err_peek_error())
        openssl.err_clear_error();
    while (done < data.len && whole) {
        int part = data.len - done > SLICE ? SLICE : (int)(data.len - done);
        whole = openssl.ssl_write(self->ssl, (const char *)data.buf + done, part) == part;
        done += part;
        while (filled < room) {
            Py_ssize_t space = room - filled;
            int taken = openssl.bio_read(self->wbio, out + filled, space > INT_MAX ? INT_MAX : (int)space);
            if (taken <= 0)
                break;
            filled += taken;
        }
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    if (!whole) {
        Py_DECREF(chunk);
        return PyObject_CallMethodNoArgs((PyObject *)self, name_write_failed);
    }
    _PyBytes_Resize(&chunk, filled);
    return chunk;
}

/* drain() -> bytes */
static PyObject *
pump_drain(Pump *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_ready(self))
        return NULL;
    int got = openssl.bio_read(self->wbio, scratch, SCRATCH_SIZE);
    if (got <= 0)
        return PyBytes_FromStringAndSize(NULL, 0);
    PyObject *data = PyBytes_FromStringAndSize(scratch, got);
    while (data != NULL && got == SCRATCH_SIZE) {
        got = openssl.bio_read(self->wbio, scratch, SCRATCH_SIZE);
        if (got <= 0)
            break;
        PyBytes_ConcatAndDel(&data, PyBytes_FromStringAndSize(scratch, got));
    }
    return data;
}

static void
pump_dealloc(Pump *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_CLEAR(self->outcome);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define FAST(name, function) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}

static PyMethodDef pump_methods[] = {
    FAST("attach", pump_attach),
    FAST("feed", pump_feed),
    FAST("decrypt_into", pump_decrypt_into),
    FAST("decrypt_bytes", pump_decrypt_bytes),
    FAST("encrypt", pump_encrypt),
    FAST("encrypt_slices", pump_encrypt_slices),
    {"drain", (PyCFunction)pump_drain, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pump_members[] = {
    {"records", T_PYSSIZET, offsetof(Pump, records), 0, NULL},
    {"outcome", T_OBJECT, offsetof(Pump, outcome), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pump_slots[] = {
    {Py_tp_dealloc, pump_dealloc},
    {Py_tp_methods, pump_methods},
    {Py_tp_members, pump_members},
    {0, NULL},
};

static PyType_Spec pump_spec = {
    .name = "sslconnector._engine._pump.Pump",
    .basicsize = sizeof(Pump),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = pump_slots,
};

/* setup(addresses, outcome_data): the addresses of OpenSSL's functions by name, and what a decryption's normal end is called */
static PyObject *
module_setup(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *addresses, *data;
    if (!PyArg_ParseTuple(args, "O!O", &PyDict_Type, &addresses, &data))
        return NULL;
    struct {
        const char *name;
        void **place;
    } wanted[] = {
        {"SSL_read", (void **)&openssl.ssl_read},
        {"SSL_write", (void **)&openssl.ssl_write},
        {"SSL_pending", (void **)&openssl.ssl_pending},
        {"BIO_read", (void **)&openssl.bio_read},
        {"BIO_write", (void **)&openssl.bio_write},
        {"ERR_peek_error", (void **)&openssl.err_peek_error},
        {"ERR_clear_error", (void **)&openssl.err_clear_error},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        PyObject *address = PyDict_GetItemString(addresses, wanted[i].name);
        void *pointer = address == NULL ? NULL : PyLong_AsVoidPtr(address);
        if (pointer == NULL) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "no address for %s", wanted[i].name);
            return NULL;
        }
        *wanted[i].place = pointer;
    }
    Py_INCREF(data);
    Py_XSETREF(outcome_data, data);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"setup", module_setup, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sslconnector._engine._pump",
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC
PyInit__pump(void)
{
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL)
        return NULL;
    name_stopped = PyUnicode_InternFromString("_stopped");
    name_write_failed = PyUnicode_InternFromString("_write_failed");
    PyObject *type = PyType_FromSpec(&pump_spec);
    if (name_stopped == NULL || name_write_failed == NULL || type == NULL || PyModule_AddObject(module, "Pump", type) < 0 ||
        add_lane_types(module, (PyTypeObject *)type) < 0) {
        Py_XDECREF(type);
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
