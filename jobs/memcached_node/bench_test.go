package memcachednode

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
)

// BenchmarkProvision compares the node with starting a server with SASL.
func BenchmarkProvision(b *testing.B) {
	f := nodetest.New(b, Definition, "capacity: 100\nports: 13100-13199\n")
	folder := b.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "memcached.conf"), []byte("mech_list: plain\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	nodetest.Bench(b, f, func(n int) error {
		port := strconv.Itoa(13200 + n)
		cmd := exec.Command("memcached", "-S", "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "1", "-m", "16", "-u", "root")
		cmd.Env = append(os.Environ(), "SASL_CONF_PATH="+folder)
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() { go func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() }()
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		for {
			_, err := askMechanisms(ctx, "127.0.0.1:"+port)
			if err == nil || ctx.Err() != nil {
				return err
			}
			<-time.After(time.Millisecond)
		}
	})
}
