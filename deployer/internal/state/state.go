// Package state is what the deployer remembers between runs: identities,
// stable indexes, the inputs of each VM as last rolled, secrets, how far a
// rollout got. What is installed and running is not here: that is asked of the
// agents each time.
package state

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// State is state.json: no secrets.
type State struct {
	Version      int    `json:"version"`
	DeploymentID string `json:"deployment_id"`
	Deployment   string `json:"deployment"`
	// Defaults are those that the deployment began with, so that an upgrade closes
	// nothing that still runs: DefaultsNow, or 0 for those of versions up to 0.9.
	Defaults int `json:"defaults,omitempty"`
	// Manifest tells the manifest that the deployment is made from.
	Manifest ManifestID `json:"manifest,omitzero"`
	// Epoch is that of the last lease: it grows with every run that changes something.
	Epoch uint64 `json:"epoch"`
	// Lease is the name that the run which took Epoch gave itself. Who has another
	// one is not the one who may write (Store.Begin).
	Lease string `json:"lease,omitempty"`
	// Groups are the instances by group, ascending by index; index and zone are
	// stable for life.
	Groups map[string][]Slot `json:"groups"`
	// VMs by instance id: as the infrastructure last told.
	VMs map[string]VM `json:"vms"`
	// Orphans are persistent disks without an instance. One that returns takes its
	// disk again.
	Orphans []Orphan `json:"orphans,omitempty"`
	// Previous are the VMs beside which instances got the one that they have now,
	// by instance id. They are deleted when everybody knows the new ones.
	Previous map[string]VM `json:"leaving,omitempty"`
	// Engine is the engine's state as the last run left it: another one is not that
	// of these VMs.
	Engine EngineState `json:"engine,omitzero"`
	// Bus is set once the bus has served: where agents are asked first.
	Bus []string `json:"bus,omitempty"`
	// Ignored are the instances that nothing touches until the operator says so,
	// sorted.
	Ignored []string `json:"ignored,omitempty"`
	// Memory holds what the rollout must know of earlier ones: groups that have
	// served, canaries that passed, generations known bad (rollout.Memory).
	Memory json.RawMessage `json:"memory,omitempty"`
	// Revisions are the last KeptRevisions applies that changed something,
	// oldest first: what can be returned to.
	Revisions []Revision `json:"revisions,omitempty"`
}

// DefaultsNow are the defaults of deployments that this version makes: it raises
// the number when it closes what earlier ones had open.
const DefaultsNow = 1

// Earlier reports whether properties have their earlier defaults.
func (s *State) Earlier() bool { return s.Defaults < DefaultsNow }

// KeptRevisions is the number of revisions that are kept with their packages.
const KeptRevisions = 10

// Revision describes what a successful apply made of the deployment.
type Revision struct {
	Number int       `json:"number"` // from 1
	At     time.Time `json:"at"`
	// Manifest is the sha256 over the manifest, its jobs and their templates.
	Manifest string `json:"manifest"`
	// Generations by instance id.
	Generations map[string]string `json:"generations"`
	// Packages are the digests of the packages that they use, sorted; each is
	// kept as packages/<digest>.tar.gz.
	Packages []string `json:"packages"`
	// VMs is a digest over what the VMs were made of.
	VMs string `json:"vms,omitempty"`
}

// ManifestID tells manifests of one deployment name from each other.
type ManifestID struct {
	// Path is absolute, with links followed: where the last run read the manifest.
	Path string `json:"path"`
	// Within is the path below the top of its repository, "" if it is in none: that is
	// the same in each checkout.
	Within string `json:"within,omitempty"`
}

// EngineState tells the engine's state from others: terraform.StateID.
type EngineState struct {
	Lineage string `json:"lineage"`
	Serial  uint64 `json:"serial"`
	// Program is the engine that wrote it, "terraform 1.11.4".
	Program string `json:"program,omitempty"`
}

// Slot is the place of one instance in its group.
type Slot struct {
	Index int    `json:"index"`
	AZ    string `json:"az,omitempty"`
}

// Orphan is a persistent disk whose instance is gone.
type Orphan struct {
	ID     string `json:"id"` // of the instance, "db/2"
	Group  string `json:"group"`
	Index  int    `json:"index"`
	AZ     string `json:"az,omitempty"`
	SizeGB int    `json:"size_gb"`
	// Folder is the folder or device where it was last seen.
	Folder string `json:"folder,omitempty"`
}

// VM is a machine as the infrastructure last told.
type VM struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	SSHHost string `json:"ssh_host"`
	SSHPort int    `json:"ssh_port"`
	SSHUser string `json:"ssh_user"`
	HostKey string `json:"host_key"`
	// PrivateKeyFile and Keep are the template's ssh_private_key_file and keep.
	PrivateKeyFile string `json:"ssh_private_key_file,omitempty"`
	Keep           bool   `json:"keep,omitempty"`
	AgentDir       string `json:"agent_dir"`
	OS             string `json:"os"`
	Arch           string `json:"arch"`
	Disk           string `json:"disk,omitempty"`
	ImageDir       string `json:"image_dir,omitempty"`
	Running        bool   `json:"running"`
	// Console is the template's console: a file on this machine.
	Console string `json:"console,omitempty"`
	// System is the template's system.
	System bool `json:"system,omitempty"`
	// BootSeconds is the template's boot_seconds; 0: not said.
	BootSeconds int `json:"boot_seconds,omitempty"`
	// Beside is the template's beside; Key is that of the VM's resource if it is
	// not the instance's id, see terraform.BesideKey.
	Beside bool   `json:"beside,omitempty"`
	Key    string `json:"key,omitempty"`
	// Input holds what the VM was made of, as last rolled.
	Input json.RawMessage `json:"input,omitempty"`
}

// VMID names a VM: an instance's own, or its previous one while both exist.
type VMID struct {
	Instance string
	Previous bool
}

// Own names the VM that an instance has.
func Own(instance string) VMID { return VMID{Instance: instance} }

// PreviousOf names the VM beside which an instance got its own.
func PreviousOf(instance string) VMID { return VMID{Instance: instance, Previous: true} }

// String is "nats/0" or "nats/0 (previous VM)".
func (v VMID) String() string {
	if v.Previous {
		return v.Instance + " (previous VM)"
	}
	return v.Instance
}

// SSHAgent as a VM's PrivateKeyFile means the keys of the SSH agent.
const SSHAgent = "agent"

// Clone is a deep copy.
func (s *State) Clone() *State {
	data, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("state does not encode: %v", err)) // plain data; cannot fail
	}
	var out State
	if err := json.Unmarshal(data, &out); err != nil {
		panic(fmt.Sprintf("state does not decode: %v", err))
	}
	return &out
}

// Assign brings a group to n instances over the given zones. Existing indexes
// stay; the highest are removed first, new instances take the lowest free index
// and the emptiest zone. Zones stay too, with two exceptions: an instance whose
// zone is not among the zones any more moves to the emptiest one, and a zone
// without an instance takes one from the fullest. An instance with a persistent
// disk never moves, since the disk cannot.
func (s *State) Assign(group string, n int, zones []string) []Slot {
	slots := slices.Clone(s.Groups[group])
	if len(slots) > n {
		slots = slots[:n]
	}
	used := map[int]bool{}
	inZone := map[string]int{}
	for _, slot := range slots {
		used[slot.Index] = true
		inZone[slot.AZ]++
	}
	emptiest := func() string {
		az := ""
		for i, zone := range zones {
			if i == 0 || inZone[zone] < inZone[az] {
				az = zone
			}
		}
		return az
	}
	move := func(i int, to string) {
		inZone[slots[i].AZ]--
		slots[i].AZ = to
		inZone[to]++
	}
	for i, slot := range slots {
		if len(zones) > 0 && !slices.Contains(zones, slot.AZ) && !s.hasDisk(group, slot.Index) {
			move(i, emptiest())
		}
	}
	for _, zone := range zones {
		if i := s.spare(group, slots, inZone); inZone[zone] == 0 && i >= 0 {
			move(i, zone)
		}
	}
	for index := 0; len(slots) < n; index++ {
		if used[index] {
			continue
		}
		az := emptiest()
		// A disk that waits for the instance cannot leave its zone.
		for _, o := range s.Orphans {
			if o.Group == group && o.Index == index && slices.Contains(zones, o.AZ) {
				az = o.AZ
			}
		}
		inZone[az]++
		slots = append(slots, Slot{Index: index, AZ: az})
	}
	slices.SortFunc(slots, func(a, b Slot) int { return a.Index - b.Index })
	return slots
}

// spare returns the position of the last instance of the fullest zone that can
// give one to an empty zone, -1 if there is none.
func (s *State) spare(group string, slots []Slot, inZone map[string]int) int {
	best := -1
	for i, slot := range slots {
		if inZone[slot.AZ] > 1 && !s.hasDisk(group, slot.Index) && (best < 0 || inZone[slot.AZ] >= inZone[slots[best].AZ]) {
			best = i
		}
	}
	return best
}

// hasDisk reports whether an instance has a persistent disk, or one waits for it.
func (s *State) hasDisk(group string, index int) bool {
	return s.VMs[fmt.Sprintf("%s/%d", group, index)].Disk != "" ||
		slices.ContainsFunc(s.Orphans, func(o Orphan) bool { return o.Group == group && o.Index == index })
}

// Secrets is secrets.json, readable by its owner only.
type Secrets struct {
	// Encryption says how the file is encrypted, nil if it is not.
	Encryption *Encryption `json:"encryption,omitempty"`
	// DigestKey keys every digest that leaves the deployer, so that no short
	// secret can be guessed from one.
	DigestKey []byte `json:"digest_key"`
	// CA is the deployment's own authority: bus, agents, certificate blocks.
	CA KeyPair `json:"ca"`
	// NextCA is trusted everywhere before it signs anything, and OldCA, a
	// certificate, as long as something that it signed is in use: see RotateCA.
	NextCA *KeyPair `json:"next_ca,omitempty"`
	OldCA  string   `json:"old_ca,omitempty"`
	// SSH is the key that VMs let in.
	SSH SSHKey `json:"ssh"`
	// Values are the manifest's secrets by name and attribute.
	Values map[string]map[string]string `json:"values,omitempty"`
	// Certificates by "group/index/job/name".
	Certificates map[string]Certificate `json:"certificates,omitempty"`
	// Domains are the certificates of domains that were issued for them, by name.
	Domains map[string]Certificate `json:"domains,omitempty"`
	// ACME is the account at a CA, and what failed of late; nil: there is none.
	ACME *ACME `json:"acme,omitempty"`
	// Variables are the sensitive variables of kept revisions, by
	// "revision/name": cty's JSON with the type.
	Variables map[string]json.RawMessage `json:"variables,omitempty"`
	// Agents are the agents' own certificates by instance id.
	Agents map[string]AgentCertificate `json:"agents,omitempty"`
	// DeploymentID is that of the state that they belong to.
	DeploymentID string `json:"deployment_id,omitempty"`

	// read: they were read from the folder, or have been written there.
	read bool
}

// ACME is an account at a CA that speaks ACME.
type ACME struct {
	Key string `json:"key"` // PEM
	// Failed are the last tries that failed, by domain.
	Failed map[string]ACMEFailure `json:"failed,omitempty"`
}

// ACMEFailure is a try to get a certificate.
type ACMEFailure struct {
	At       time.Time `json:"at"`
	Failures int       `json:"failures"` // in a row
	Error    string    `json:"error"`
}

// KeyPair is a certificate and its key, PEM.
type KeyPair struct {
	Certificate string `json:"certificate"`
	PrivateKey  string `json:"private_key"`
}

// SSHKey is an SSH key pair: OpenSSH PEM and authorized_keys line.
type SSHKey struct {
	PrivateKey string `json:"private_key"`
	PublicKey  string `json:"public_key"`
}

// Certificate is an issued certificate block.
type Certificate struct {
	KeyPair
	Names []string `json:"names"`
}

// AgentCertificate is an agent's certificate and the key it is for.
type AgentCertificate struct {
	Certificate string `json:"certificate"`
	PublicKey   []byte `json:"public_key"`
}

// Store is a deployment's folder.
type Store struct {
	Dir string
	// Keys open encrypted secrets; nil if there are none to give.
	Keys *Keys
}

// Paths below the folder.
func (s Store) stateFile() string   { return filepath.Join(s.Dir, "state.json") }
func (s Store) secretsFile() string { return filepath.Join(s.Dir, "secrets.json") }

// Terraform is the engine's working folder.
func (s Store) Terraform() string { return filepath.Join(s.Dir, "terraform") }

// Packages returns where the packages of kept revisions are.
func (s Store) Packages() string { return filepath.Join(s.Dir, "packages") }

// VMs returns where the local template keeps its VMs.
func (s Store) VMs() string { return filepath.Join(s.Dir, "vms") }

// Stemcells is the folder of the images that VMs boot.
func (s Store) Stemcells() string { return filepath.Join(s.Dir, "stemcells") }

// Load reads state and secrets. The state is nil for a deployment that was never
// applied, and so are the secrets, but for those that a first run has written
// which was ended before it wrote the state.
func (s Store) Load() (*State, *Secrets, error) {
	st, err := s.LoadState()
	if err != nil {
		return nil, nil, err
	}
	secrets, err := s.loadSecrets()
	if err != nil || st == nil {
		return nil, secrets, err
	}
	if secrets == nil {
		return nil, nil, missing(s.Dir, filepath.Base(s.secretsFile()), []string{filepath.Base(s.stateFile())})
	}
	if secrets.DeploymentID != "" && secrets.DeploymentID != st.DeploymentID {
		return nil, nil, damaged(s.secretsFile(), fmt.Errorf("it holds the secrets of another deployment (id %.8s, that of state.json is %.8s)", secrets.DeploymentID, st.DeploymentID))
	}
	return st, secrets, nil
}

// loadSecrets returns nil if there are none.
func (s Store) loadSecrets() (*Secrets, error) {
	data, err := os.ReadFile(s.secretsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state: %w", err)
	}
	if Encrypted(data) {
		if data, err = s.Keys.Open(data); errors.Is(err, errCutOff) {
			return nil, damaged(s.secretsFile(), err)
		} else if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", s.secretsFile(), err)
		}
	}
	secrets := Secrets{read: true}
	if err := json.Unmarshal(data, &secrets); err != nil {
		return nil, damaged(s.secretsFile(), cutOff(data, err))
	}
	return &secrets, nil
}

// LoadState is Load without the secrets.
func (s Store) LoadState() (*State, error) {
	data, err := os.ReadFile(s.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		others, err := evidence(s.Dir)
		if err == nil && len(others) > 0 {
			err = missing(s.Dir, filepath.Base(s.stateFile()), others)
		}
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state: %w", err)
	}
	st, err := parseState(data)
	var newer versionError
	switch {
	case errors.As(err, &newer):
		return nil, fmt.Errorf("cannot use %s: %w", s.stateFile(), err)
	case err != nil:
		return nil, damaged(s.stateFile(), err)
	}
	return st, nil
}

func parseState(data []byte) (*State, error) {
	var st State
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, cutOff(data, err)
	}
	switch {
	case st.Version == 0 || st.Version == 1 && st.DeploymentID == "":
		return nil, errors.New("it is not a state: it names neither its version nor its deployment")
	case st.Version != 1:
		return nil, versionError(st.Version)
	}
	return &st, nil
}

// versionError is the version of a state that is not damaged, and not known.
type versionError int

func (e versionError) Error() string {
	return fmt.Sprintf("it has version %d and this deploy knows version 1; use the deploy that wrote it, or a newer one", int(e))
}

// New is the state of a deployment that begins.
func New(deployment string) *State {
	id := make([]byte, 16)
	rand.Read(id)
	return &State{Version: 1, DeploymentID: hex.EncodeToString(id), Deployment: deployment, Defaults: DefaultsNow}
}

// Remove deletes the folder, once nothing that it describes exists any more. It
// takes another name first: one of which a part is left would look damaged.
func (s Store) Remove() error {
	gone := filepath.Join(filepath.Dir(s.Dir), "."+filepath.Base(s.Dir)+".removed")
	err := os.RemoveAll(gone)
	if err == nil {
		err = os.Rename(s.Dir, gone)
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the state folder: %w", err)
	}
	// The folder above is ours as well when nothing else is in it.
	_ = os.Remove(filepath.Dir(s.Dir))
	return nil
}

// Encode returns the text of state.json.
func (s *State) Encode() ([]byte, error) { return encode(s) }

func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode the state: %w", err)
	}
	return append(data, '\n'), nil
}

func writeChanged(path string, data []byte) (wrote bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	if err := renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		err = fmt.Errorf("cannot write the state: %w", err)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("%w; free some space below %s, then run this again: it continues from what is there", err, filepath.Dir(path))
		}
		return false, err
	}
	return true, syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot sync the state folder: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// RemoveUnused deletes the folder if it holds nothing but the lock: a first run
// that came to nothing leaves no trace.
func (s Store) RemoveUnused() error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "lock" {
		return nil // there is something to keep, or nothing to remove
	}
	return s.Remove()
}
