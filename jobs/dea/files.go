package dea

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxListed bounds the list of a folder, which is held in memory: an app may have made
// very many files.
const maxListed = 10_000

// shown holds what of an instance's folder is listed.
var shown = []string{"app", "logs", "tomcat"}

// fileServer shows instances' files to whoever knows the credentials, which
// dea.find.droplet tells.
type fileServer struct {
	folder      string // of all instances
	credentials [2]string
	listener    net.Listener
	log         *slog.Logger
}

// serve answers until ctx ends.
func (s *fileServer) serve(ctx context.Context) error {
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot go on serving files at %s: %w", s.listener.Addr(), err)
	}
	return nil
}

// ServeHTTP answers /droplets/<instance folder>/<path>. Ranges work, so the end
// of a log is "Range: bytes=-2000".
func (s *fileServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if subtle.ConstantTimeCompare([]byte(user), []byte(s.credentials[0]))&subtle.ConstantTimeCompare([]byte(password), []byte(s.credentials[1])) != 1 {
		w.Header().Set("WWW-Authenticate", `Basic realm="files"`)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	rest, found := strings.CutPrefix(r.URL.Path, "/droplets/")
	folder, name, _ := strings.Cut(rest, "/")
	if !found || folder == "" || folder == "." || folder == ".." || slices.Contains(strings.Split(name, "/"), "..") {
		http.Error(w, "forbidden", http.StatusForbidden)
		return
	}
	name = path.Clean("./" + name)
	if first, _, _ := strings.Cut(name, "/"); first == "startup" || first == "stop" {
		http.Error(w, "forbidden", http.StatusForbidden)
		return
	}
	status, err := s.show(w, r, folder, name)
	if err != nil {
		text := "Entity not found.\n"
		if status == http.StatusForbidden {
			text = "forbidden\n"
		}
		s.log.Debug("cannot show a file", "folder", folder, "name", name, "error", err)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func (s *fileServer) show(w http.ResponseWriter, r *http.Request, folder, name string) (status int, err error) {
	all, err := os.OpenRoot(s.folder)
	if err != nil {
		return http.StatusNotFound, err
	}
	defer all.Close()
	root, err := all.OpenRoot(folder)
	if err != nil {
		return http.StatusNotFound, err
	}
	defer root.Close()
	f, err := openRegular(root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return http.StatusNotFound, err
	case err != nil: // a link that leaves the instance, or no file at all
		return http.StatusForbidden, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return http.StatusNotFound, err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !info.IsDir() {
		http.ServeContent(w, r, "", info.ModTime(), f)
		return 0, nil
	}
	entries, err := f.ReadDir(maxListed + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return http.StatusNotFound, err
	}
	more := len(entries) > maxListed
	entries = entries[:min(len(entries), maxListed)]
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var list strings.Builder
	for _, e := range entries {
		if name == "." && !slices.Contains(shown, e.Name()) {
			continue
		}
		if e.IsDir() {
			fmt.Fprintf(&list, "%-35s %10s\n", e.Name()+"/", "-")
			continue
		}
		if info, err := e.Info(); err == nil {
			fmt.Fprintf(&list, "%-35s %10s\n", e.Name(), size(info.Size()))
		}
	}
	if more {
		fmt.Fprintf(&list, "and more: only %d are listed\n", maxListed)
	}
	_, _ = io.WriteString(w, list.String())
	return 0, nil
}

// openRegular opens a file or folder below root; what else an app may have put
// there, as a FIFO on which one would wait, is refused.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = fmt.Errorf("%s is no file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// size is a file's size for people: "10B", "1.2K".
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	value, unit := float64(n), ""
	for _, unit = range []string{"K", "M", "G", "T"} {
		value /= 1024
		if value < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f%s", value, unit)
}
