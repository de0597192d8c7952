package provider

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// A VM whose own files are damaged is there all the same, with all that jobs keep in
// its folder: it is never made anew for it. Its init, while it runs, puts the files
// back; else they are written again when the VM is started.

// foreign reports whether a VM's configuration was made for another folder and is not
// the VM that the engine knows.
func (h *host) foreign(s seat, found, known string) bool {
	return found != known && !strings.HasPrefix(found, folderPrefix(h.machineDir(s)))
}

// remembered returns a VM as the engine knows it, for one whose own files do not tell.
// It reports whether there is anything left of the VM.
func (h *host) remembered(c localvm.Machine, hostKey, level string) (machineState, bool) {
	dir := h.machineDir(seatOf(c))
	if info, err := os.Stat(filepath.Join(dir, agentFolder)); err != nil || !info.IsDir() {
		return machineState{}, false
	}
	m := machineState{Machine: c, HostKey: hostKey, Level: level, Running: localvm.Runs(localvm.Init, dir, c.ID)}
	if !m.Running {
		m.HostKey = "" // not known before it is started with another
		if signer, err := localvm.ReadHostKey(dir); err == nil {
			m.HostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
		}
	}
	return m, true
}

// running notes that a VM runs whose status is damaged: its init writes that again.
func (h *host) running(m *machineState, level string) {
	dir := h.machineDir(seatOf(m.Machine))
	if s := localvm.ReadStatus(dir); (s == nil || s.ID != m.ID) && localvm.Runs(localvm.Init, dir, m.ID) {
		m.Running, m.Level = true, level
	}
}

// mendHostKey gives a VM that does not run another host key if it has none that can be
// read.
func mendHostKey(dir string) error {
	_, err := localvm.ReadHostKey(dir)
	if err == nil || !gone(err) {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Join(dir, localvm.ServicesFolder), 0o700), writeHostKey(dir))
}

// writeHostKey makes a host key.
func writeHostKey(dir string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, localvm.HostKeyFile), pem.EncodeToMemory(block), 0o600)
}
