package redisnode

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
)

// BenchmarkProvision compares the node with starting a server that does as much: an
// append-only file, and an answer.
func BenchmarkProvision(b *testing.B) {
	f := nodetest.New(b, Definition, "capacity: 100\nports: 13000-13099\n")
	nodetest.Bench(b, f, func(int) error { return startServer(b) })
}

func startServer(b *testing.B) error {
	folder := b.TempDir()
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", "socket", "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning")
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { go func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() }()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if conn, err := net.Dial("unix", filepath.Join(folder, "socket")); err == nil {
			defer conn.Close()
			if _, err := conn.Write([]byte("PING\r\n")); err != nil {
				return err
			}
			_, err := conn.Read(make([]byte, 16))
			return err
		}
		<-time.After(time.Millisecond)
	}
	return fmt.Errorf("the server does not answer")
}
