package upstream

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errNotWanted ends an upload that the backend has answered without wanting it.
var errNotWanted = errors.New("the backend wants no body")

// upload is a request with a body on its way to a backend. It ends when all is
// written, when either side fails, or when the connection is closed.
type upload struct {
	conn *conn
	body io.Reader
	// verdict gets once whether the backend wants the body; nil: it is sent without
	// being asked for.
	verdict chan bool
	asked   bool          // the verdict was waited for
	ended   chan struct{} // closed at the end; then err may be read
	err     error

	mu       sync.Mutex
	readFail error // of the body itself
}

func startUpload(c *conn, req *http.Request) *upload {
	u := &upload{conn: c, body: req.Body, ended: make(chan struct{})}
	if expectsContinue(req) {
		u.verdict = make(chan bool, 1)
	}
	c.writer()
	out := new(http.Request)
	*out = *req
	out.Body = io.NopCloser(u)
	go u.run(out)
	return u
}

func (u *upload) run(req *http.Request) {
	defer close(u.ended)
	err := req.Write(plainWriter{u.conn.out})
	if err == nil {
		err = u.conn.out.Flush()
	}
	u.err = err
	switch {
	case err == nil:
	case u.bodyErr() != nil:
		// The backend waits for what will not come.
		u.conn.Conn.Close()
	case errors.Is(err, errNotWanted):
	case u.conn.waiting.Load():
		// The backend may have answered before it stopped listening.
		u.conn.hurry(afterRefusal)
	}
}

// Read reads the request's body for the writer. What was written before goes out
// first: the body may take its time.
func (u *upload) Read(p []byte) (int, error) {
	if u.conn.out.Buffered() > 0 {
		if err := u.conn.out.Flush(); err != nil {
			return 0, err
		}
	}
	if u.verdict != nil && !u.asked {
		u.asked = true
		patience := time.NewTimer(u.conn.transport.Continue)
		defer patience.Stop()
		select {
		case wanted := <-u.verdict:
			if !wanted {
				return 0, errNotWanted
			}
		case <-patience.C:
		}
	}
	n, err := u.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		u.mu.Lock()
		u.readFail = err
		u.mu.Unlock()
	}
	return n, err
}

// answered tells an upload that waits whether the backend wants the body. Only
// the first word counts.
func (u *upload) answered(wanted bool) {
	select {
	case u.verdict <- wanted:
	default:
	}
}

// wait reports whether the whole request has been written within so long.
func (u *upload) wait(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-u.ended:
		return u.err == nil
	case <-timer.C:
		return false
	}
}

// bodyErr returns why the request's body could not be read, nil if it could.
func (u *upload) bodyErr() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.readFail
}

// plainWriter hides what else a bufio.Writer can do: http.Request.Write would
// read a body straight into its buffer, which Read above flushes.
type plainWriter struct{ out *bufio.Writer }

func (w plainWriter) Write(p []byte) (int, error)       { return w.out.Write(p) }
func (w plainWriter) WriteByte(b byte) error            { return w.out.WriteByte(b) }
func (w plainWriter) WriteString(s string) (int, error) { return w.out.WriteString(s) }
