package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Listen opens a unix socket for the owner only, in place of one that a dead
// agent left behind. The path may be of any length: the kernel's 107 bytes are
// avoided by going through the folder's descriptor.
func Listen(path string) (net.Listener, error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder of socket %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		folder.Close()
		return nil, fmt.Errorf("cannot replace socket %s: %w", path, err)
	}
	short := fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		if listener != nil {
			listener.Close()
		}
		folder.Close()
		return nil, fmt.Errorf("cannot listen on socket %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	return &socket{listener, folder, path}, nil
}

// socket removes its file by its real name and keeps the folder open till then.
type socket struct {
	*net.UnixListener
	folder *os.File
	path   string
}

func (s *socket) Close() error {
	err := s.UnixListener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	if e := os.Remove(s.path); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, s.folder.Close())
}
