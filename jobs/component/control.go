package component

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

// controlListener is the control socket with the folder that keeps its short
// path valid.
type controlListener struct {
	net.Listener
	folder *os.File
}

// listenControl listens on the unix socket at path, whatever its length: the
// kernel takes 107 bytes, so the folder is opened and the name is reached
// through it. A socket left behind by an earlier process is replaced.
func listenControl(path string) (net.Listener, error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder of the control socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		folder.Close()
		return nil, fmt.Errorf("cannot replace the control socket: %w", err)
	}
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path)))
	if err != nil {
		folder.Close()
		return nil, fmt.Errorf("cannot listen on the control socket %s: %w", path, err)
	}
	return &controlListener{Listener: l, folder: folder}, nil
}

// Close removes the socket before it lets go of the folder.
func (l *controlListener) Close() error {
	return errors.Join(l.Listener.Close(), l.folder.Close())
}

// controlHandler answers the agent; README.md is the contract.
func (c *Component) controlHandler() http.Handler {
	answer := func(w http.ResponseWriter, err error, status int) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err != nil {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, err.Error()+"\n")
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, c.Ready(), http.StatusServiceUnavailable)
	})
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		answer(w, c.Drain(r.Context()), http.StatusInternalServerError)
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, c.Reload(), http.StatusInternalServerError)
	})
	return mux
}
