// Package staticserver serves a folder of files: what an app of framework static
// runs. It is built without anything but the standard library, since it goes
// into every droplet of that kind.
package staticserver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A router keeps an idle connection for 2 s; the server outlives it while it
// leaves, so that no request is on its way over a connection that is closed.
const (
	peerKeepalive = 3 * time.Second
	ownKeepalive  = 90 * time.Second
	finishWithin  = 10 * time.Second
)

// Main is the program: static_server [-p PORT] [FOLDER]. It returns the exit
// status.
func Main() int {
	flags := flag.NewFlagSet("static_server", flag.ContinueOnError)
	port := flags.String("p", os.Getenv("VCAP_APP_PORT"), "the `port` to serve on; by default VCAP_APP_PORT")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return 2
	}
	folder := flags.Arg(0)
	if folder == "" {
		folder = "."
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, folder, *port); err != nil {
		fmt.Fprintln(os.Stderr, "static_server:", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, folder, port string) error {
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("cannot serve on port %q: give one with -p", port)
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return fmt.Errorf("cannot serve: %w", err)
	}
	fmt.Println("serving on", listener.Addr())
	return Serve(ctx, listener, folder, peerKeepalive)
}

// Serve serves the folder until ctx ends; then it answers for as long as clients
// may keep a connection without using it (keepalive), and returns when all is
// answered.
func Serve(ctx context.Context, listener net.Listener, folder string, keepalive time.Duration) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot serve %s: %w", folder, err), listener.Close())
	}
	defer root.Close()
	var leaving atomic.Bool
	files := Handler(root.FS())
	server := &http.Server{
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       ownKeepalive,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if leaving.Load() {
				w.Header().Set("Connection", "close")
			}
			files.ServeHTTP(w, r)
		}),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("cannot go on serving: %w", err)
	case <-ctx.Done():
	}
	leaving.Store(true)
	select {
	case err := <-ended:
		return fmt.Errorf("cannot go on serving: %w", err)
	case <-time.After(keepalive):
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishWithin)
	defer cancel()
	err = server.Shutdown(finish)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// site is a folder of files with its settings.
type site struct {
	files    fs.FS
	settings Settings
	tags     tags
}

// Handler serves files, index.html for folders, and 404.html, if there is one,
// for what is not there. A Staticfile in the root may say otherwise. Names that begin
// with a dot are not there, .well-known apart; folders are not listed.
func Handler(files fs.FS) http.Handler {
	text, _ := fs.ReadFile(files, SettingsFile) // most sites have none
	s := &site{files: files, settings: Read(text)}
	if within, err := fs.Sub(files, s.settings.Root); err == nil {
		s.files = within
	}
	s.settings.PushState = s.settings.PushState && s.there("index.html")
	return s
}

// ServeHTTP answers a request.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The router says how the request came; without one it is not known.
	by := r.Header.Get("X-Forwarded-Proto")
	if s.settings.ForceHTTPS && strings.EqualFold(by, "http") {
		http.Redirect(w, r, "https://"+r.Host+r.URL.RequestURI(), http.StatusMovedPermanently)
		return
	}
	if s.settings.HSTS != "" && !strings.EqualFold(by, "http") {
		w.Header().Set("Strict-Transport-Security", s.settings.HSTS)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
		return
	}
	clean := path.Clean("/" + r.URL.Path)
	name := strings.TrimPrefix(clean, "/")
	if name == "" {
		name = "."
	}
	info, err := fs.Stat(s.files, name)
	switch {
	case s.hidden(name):
		s.notFound(w)
	case err != nil && s.settings.PushState && path.Ext(name) == "": // a script that is missing is not a page
		s.serveFile(w, r, "index.html")
	case err != nil:
		s.notFound(w)
	case !info.IsDir():
		s.serveFile(w, r, name)
	case !s.there(path.Join(name, "index.html")):
		s.notFound(w)
	case !strings.HasSuffix(r.URL.Path, "/"):
		// Or the page's relative links lead elsewhere. A path and no more, so
		// that nobody is sent to another host.
		to := clean + "/"
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		http.Redirect(w, r, to, http.StatusMovedPermanently)
	default:
		s.serveFile(w, r, path.Join(name, "index.html"))
	}
}

func (s *site) hidden(name string) bool {
	if name == SettingsFile || name == PasswordsFile {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") && part != "." && part != ".well-known" && !s.settings.DotFiles {
			return true
		}
	}
	return false
}

func (s *site) there(name string) bool {
	info, err := fs.Stat(s.files, name)
	return err == nil && info.Mode().IsRegular()
}

func (s *site) serveFile(w http.ResponseWriter, r *http.Request, name string) {
	f, err := s.files.Open(name)
	if err != nil {
		s.notFound(w)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	content, seeks := f.(io.ReadSeeker)
	if err != nil || !seeks || !info.Mode().IsRegular() {
		s.notFound(w)
		return
	}
	s.serveContent(w, r, name, info, content)
}

func (s *site) notFound(w http.ResponseWriter) {
	page, err := fs.ReadFile(s.files, "404.html")
	if err != nil {
		http.Error(w, "404 - there is no such page", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write(page)
}
