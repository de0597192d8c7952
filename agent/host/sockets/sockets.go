// Package sockets opens unix sockets whose paths may be longer than the kernel's
// 107 bytes: the folder is opened, and the name is reached through it.
package sockets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// maxPath is the length of a path that fits into a sockaddr_un on every system we know.
const maxPath = 100

// through opens the folder of a socket and returns a short path of the socket,
// which is good as long as the folder is open.
func through(path string) (folder *os.File, short string, err error) {
	if folder, err = os.Open(filepath.Dir(path)); err != nil {
		return nil, "", fmt.Errorf("cannot open the folder of the socket %s: %w", path, err)
	}
	return folder, fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path)), nil
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	if len(path) <= maxPath {
		return d.DialContext(ctx, "unix", path)
	}
	folder, short, err := through(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	return d.DialContext(ctx, "unix", short)
}

// Listen listens on a socket at path, in place of one that an earlier process has
// left there. Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	return &listener{l, path}, nil
}

// File makes a socket at path that listens, as Listen does, for another process
// to inherit. Closing the file does not remove the socket.
func File(path string) (*os.File, error) {
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return l.File()
}

func listen(path string) (*net.UnixListener, error) {
	folder, short, err := through(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot replace the socket %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // by the short path it would be another file's
	return l, nil
}

// listener removes its socket by its real path.
type listener struct {
	*net.UnixListener
	path string
}

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	if e := os.Remove(l.path); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
