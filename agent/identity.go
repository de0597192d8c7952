package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/damaged"
)

// identity is agent.json: whose agent this is, and whom it obeys.
type identity struct {
	DeploymentID string `json:"deployment_id,omitempty"`
	Deployment   string `json:"deployment,omitempty"`
	Instance     string `json:"instance,omitempty"`
	VMID         string `json:"vm_id,omitempty"`
	Address      string `json:"address,omitempty"`
	// Epoch is the highest that was seen.
	Epoch       uint64   `json:"epoch,omitempty"`
	Bus         *api.Bus `json:"bus,omitempty"`
	MetricsPort int      `json:"metrics_port,omitempty"`
	Syslog      string   `json:"syslog,omitempty"`
	// Names is as configured; nil: the VM's names are not the agent's concern.
	Names []api.Name `json:"names,omitempty"`

	// damaged says which files were set aside at the start; who configures the agent
	// has seen it.
	damaged []string
}

// takeIdentity is loadIdentity, and sets a file aside that cannot be read: the
// agent then obeys whoever configures it first.
func takeIdentity(name string, note func(string)) (identity, error) {
	id, err := loadIdentity(name)
	if err == nil {
		return id, nil
	}
	text, err := damaged.SetAside(name, err)
	if err != nil {
		return identity{}, err
	}
	note(text)
	return identity{}, nil
}

// takeKey is loadKey, and makes another key in place of one that cannot be read.
func takeKey(name string, note func(string)) (*key, error) {
	k, err := loadKey(name)
	if err == nil {
		return k, nil
	}
	text, err := damaged.SetAside(name, err)
	if err != nil {
		return nil, err
	}
	note(text)
	return loadKey(name)
}

func loadIdentity(name string) (identity, error) {
	var id identity
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("cannot read the agent's identity: %w", err)
	}
	if err := json.Unmarshal(data, &id); err != nil {
		return id, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return id, nil
}

// changeIdentity alters agent.json, then what is in memory. a.mu is held.
func (a *Agent) changeIdentity(edit func(*identity)) error {
	next := a.identity
	edit(&next)
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(a.config.Dir+"/agent.json", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot note the agent's identity: %w", err)
	}
	a.identity = next
	return nil
}

// key is the agent's own, ECDSA P-256; it never leaves the VM.
type key struct {
	pem    []byte // PKCS 8
	public []byte // PKIX DER
}

// loadKey reads the key, made at the first start.
func loadKey(name string) (*key, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newKey(); err == nil {
			err = renameio.WriteFile(name, data, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the agent's key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("cannot read the agent's key %s: not PEM; remove it and configure the agent again", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the agent's key %s: %w", name, err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("cannot use the agent's key %s: not ECDSA", name)
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	return &key{pem: data, public: public}, nil
}

func newKey() ([]byte, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
