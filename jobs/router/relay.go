package router

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// relay passes a request on and its answer back, as httputil.ReverseProxy does
// (a test holds the two against each other), without the copies that it makes.
// It streams: nothing is buffered, and answers are passed on as they come.
func (r *Router) relay(w http.ResponseWriter, req *http.Request, x *exchange) {
	if req.ContentLength == 0 {
		buffer := r.heads.get()
		head, ok := appendHead((*buffer)[:0], x, req)
		*buffer = head
		if ok {
			res, err := r.send(x, outgoing{Request: req, head: buffer})
			r.heads.put(buffer)
			r.pass(w, req, x, res, err)
			return
		}
		r.heads.put(buffer)
	}
	out := toSend(x, req)
	if out.Body != nil {
		// The handler returns when the answer is complete, its body may be read no
		// longer then.
		body := &lease{body: req.Body}
		defer body.Close()
		out.Body = body
	}
	res, err := r.send(x, outgoing{Request: out})
	r.pass(w, req, x, res, err)
}

// toSend returns a request as a backend gets it, but for the backend's key.
func toSend(x *exchange, req *http.Request) *http.Request {
	out := new(http.Request)
	*out = *req
	out.Header = make(http.Header, len(req.Header)+8)
	for name, values := range req.Header {
		out.Header[name] = values
	}
	out.Close, out.RequestURI = false, ""
	removeHopByHop(out.Header)
	if httpguts.HeaderValuesContainsToken(req.Header["Te"], "trailers") {
		out.Header["Te"] = []string{"trailers"}
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // none, not Go's
	}
	if req.ContentLength == 0 {
		out.Body = nil
	}
	forward(x, req, out.Header)
	return out
}

// pass passes on what became of a request.
func (r *Router) pass(w http.ResponseWriter, req *http.Request, x *exchange, res *http.Response, err error) {
	if err != nil {
		r.failed(w, x, req.Method, err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		r.failed(w, x, req.Method, badAnswer("it switches the protocol unasked"))
		return
	}
	removeHopByHop(res.Header)
	if err := r.modifyResponse(x, res); err != nil {
		r.failed(w, x, req.Method, err)
		return
	}
	r.answer(w, res)
}

// answer passes an answer on. A connection whose answer cannot be completed is
// cut, or the client would take what it has for all.
func (r *Router) answer(w http.ResponseWriter, res *http.Response) {
	header := w.Header()
	for name, values := range res.Header {
		if before := header[name]; len(before) > 0 {
			values = append(before, values...)
		}
		header[name] = values
	}
	announced := len(res.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range res.Trailer {
			names = append(names, name)
		}
		slices.Sort(names)
		header.Add("Trailer", strings.Join(names, ", "))
	}
	w.WriteHeader(res.StatusCode)
	if err := r.stream(w, res); err != nil {
		panic(http.ErrAbortHandler)
	}
	_ = res.Body.Close() // now, so that the trailers are there
	if len(res.Trailer) > 0 {
		// A short body would get a Content-Length, which leaves no room for trailers.
		_ = http.NewResponseController(w).Flush()
	}
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for name, values := range res.Trailer {
		for _, value := range values {
			header.Add(prefix+name, value)
		}
	}
}

// stream copies the body of an answer, and sends what is there before it waits
// for more.
func (r *Router) stream(w http.ResponseWriter, res *http.Response) error {
	if res.Body == http.NoBody {
		return nil
	}
	control := http.NewResponseController(w)
	kept := r.copies.get()
	defer r.copies.put(kept)
	buffer := *kept
	ready, _ := res.Body.(interface{ Ready() bool })
	for {
		if ready == nil || !ready.Ready() {
			if err := control.Flush(); err != nil {
				return err
			}
		}
		n, err := res.Body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil // the server sends the rest
		}
		if err != nil {
			_ = control.Flush() // what there is
			return err
		}
	}
}

// lease is a request's body while its handler runs.
type lease struct {
	body io.Reader

	mu    sync.Mutex
	ended bool
}

// errLeaseEnded ends an upload whose answer is complete.
var errLeaseEnded = errors.New("the answer is complete before the request was")

func (l *lease) Read(p []byte) (int, error) {
	l.mu.Lock()
	ended := l.ended
	l.mu.Unlock()
	if ended {
		return 0, errLeaseEnded
	}
	return l.body.Read(p)
}

// Close ends the lease. It does not wait for a Read: the server does.
func (l *lease) Close() error {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	return nil
}

// buffers are buffers to be used again. The zero value makes those of 32 KB.
type buffers struct {
	pool sync.Pool
	size int // of a new one; 0: 32 KB
}

func (p *buffers) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, cmp.Or(p.size, 32<<10))
	return &b
}

func (p *buffers) put(b *[]byte) {
	if cap(*b) <= 64<<10 {
		p.pool.Put(b)
	}
}

// copyBuffers are buffers as a httputil.BufferPool.
type copyBuffers struct{ *buffers }

func (p copyBuffers) Get() []byte  { return *p.get() }
func (p copyBuffers) Put(b []byte) { p.put(&b) }
