// Package manifests reads manifests: the HCL schema, decoding, defaults,
// validation and references, of manifests and of the job.hcl files that type
// their properties. It is pure: it reads only from the fs.FS that it is given,
// and knows no network, VM or clock. Problems are hcl.Diagnostics, all of them at
// once, with the source ranges that the printer needs.
//
// What depends on the world (addresses of VMs, values of secrets) is not in
// the manifest: it is given as Facts, and JobContext evaluates against them.
// A value that is not known yet is an unknown value; a secret one carries the
// mark Sensitive.
package manifests

import (
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Manifest is a loaded, validated set of manifest files.
type Manifest struct {
	Deployment     Deployment
	Infrastructure Infrastructure
	PKI            PKI
	Secrets        map[string]*Secret
	Groups         []*Group // in the order of declaration
	Moves          []Move
	// Order is the groups' start order: a wave requires earlier waves only. Groups
	// are removed in the reverse order.
	Order [][]*Group
	// Domains are those that load balancers serve, in the order of declaration; the
	// implied one, if there is one, comes first.
	Domains []*Domain
	// ACME is nil without an acme block.
	ACME *ACME

	// Files are all sources by path, for diagnostics' excerpts.
	Files map[string]*hcl.File
	// Sources are the manifest's own files, by their names in the file system that
	// it was loaded from.
	Sources map[string][]byte

	base   *hcl.EvalContext // var, local, deployment, vm, disk, network, functions
	locals []*local         // those that depend on Facts, each after what it uses
}

// Move is a moved block: a group that had another name. Its instances are those of
// the old name, with their disks.
type Move struct {
	From, To string
	Range    hcl.Range
}

// Group finds a group by name, nil if there is none.
func (m *Manifest) Group(name string) *Group {
	for _, g := range m.Groups {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// Deployment is the cluster as a whole.
type Deployment struct {
	Name   string
	Domain string
	// MetricsPort is the port on which every agent serves its metrics; 0: none does.
	MetricsPort int
	// Syslog is a server that processes' logs are also sent to, "udp://host:port" or
	// "tcp://host:port"; "": none.
	Syslog string
	// Firewall bounds what reaches the VMs; nil: nothing is bounded.
	Firewall *Firewall
	// PublicAddresses are those by which clients reach the load balancers, which DNS
	// must have; nil: the load balancers' own.
	PublicAddresses []string
	// Tags hold what the infrastructure is to note of each VM, for people and their
	// bills.
	Tags  map[string]string
	Range hcl.Range
}

// PKI is the pki block: the lifetimes of the deployment's own CA and of the
// certificates that it signs (for agents and for certificate blocks of jobs). An
// apply renews a certificate when less than a third of its life is left.
type PKI struct {
	CertificateLife time.Duration // default: a year
	CALife          time.Duration // default: ten years
}

// DefaultPKI returns the values without a pki block.
func DefaultPKI() PKI {
	const day = 24 * time.Hour
	return PKI{CertificateLife: 365 * day, CALife: 10 * 365 * day}
}

// Infrastructure names the template that makes the VMs.
type Infrastructure struct {
	// Template is "local", "hosts", ..., a path, or a Terraform module source.
	Template string
	// Settings are the template's own; constant, without secrets.
	Settings map[string]cty.Value
	Range    hcl.Range
}

// SecretType is the kind of value that a secret has.
type SecretType string

// The secret types and the attributes of their values.
const (
	SecretPassword    SecretType = "password"    // value
	SecretCA          SecretType = "ca"          // certificate, private_key
	SecretCertificate SecretType = "certificate" // certificate, private_key, ca
	SecretSSH         SecretType = "ssh"         // public_key, private_key
	SecretRSA         SecretType = "rsa"         // public_key, private_key
)

// Secret is made once by the deployer, kept in its state, rotated on request.
type Secret struct {
	Name   string
	Type   SecretType
	Length int    // password: characters; default 32
	CA     string // certificate: name of the ca secret that signs
	// CommonName and Names of a certificate; constant.
	CommonName string
	Names      []string
	Range      hcl.Range
}

// Stemcell is an image that VMs boot, pinned by its digest.
type Stemcell struct {
	Name string
	// Path or URL is where it is; the other one is "". A path is taken from the
	// manifest's folder.
	Path, URL string
	Version   string // for people
	SHA256    string // 64 hex digits, lower case
	// SourceRange is that of path or url, SHA256Range that of the digest.
	Range, SourceRange, SHA256Range hcl.Range
}

// String is "debian 1.0".
func (s *Stemcell) String() string { return s.Name + " " + s.Version }

// VM is a size of machine.
type VM struct {
	Name     string
	CPUs     int
	MemoryMB int
	DiskGB   int               // root disk; 0: the template's default
	Image    string            // "": the template's default
	Stemcell *Stemcell         // what it boots, instead of Image; nil: none
	Options  map[string]string // passed to the template
	UserData string            // for the VM's first boot; "": nothing
	Range    hcl.Range
}

// Disk is a persistent disk that each instance of a group gets.
type Disk struct {
	Name   string
	SizeGB int
	Range  hcl.Range // of its size
}

// Network is a network that a group's VMs are attached to.
type Network struct {
	Name string
	// Static are addresses for a group's instances, by index.
	Static  []string
	Options map[string]string
	Range   hcl.Range
}

// OnFailure says how a failed rollout ends.
type OnFailure string

const (
	OnFailureRollback    OnFailure = "rollback"     // the failed instance returns to its previous generation
	OnFailureHalt        OnFailure = "halt"         // it stays as it failed
	OnFailureRollbackAll OnFailure = "rollback_all" // so does everything this rollout touched
)

// Update is a group's update policy, merged over the deployment's.
type Update struct {
	Canaries    int
	MaxInFlight Amount
	// MinAvailable is the number of instances that must serve at any time, see
	// Available; nil: the group without MaxInFlight.
	MinAvailable *Amount
	// WatchMin and WatchMax bound the wait for health after a start.
	WatchMin, WatchMax time.Duration
	MinHealthyTime     time.Duration
	OnFailure          OnFailure
}

// Amount is a number of instances or a percentage of a group.
type Amount struct {
	Number  int
	Percent bool
}

// Of returns the amount for a group of n, rounded down and at least 1 (0 for
// an empty group), at most n.
func (a Amount) Of(n int) int {
	k := a.Number
	if a.Percent {
		k = a.Number * n / 100
	}
	return min(max(k, 1), n)
}

// Available returns how many of a group of n instances must serve while others
// are updated. A percentage is rounded up. It is always less than n, or nothing
// could ever be updated.
func (u Update) Available(n int) int {
	switch a := u.MinAvailable; {
	case a == nil:
		return n - u.MaxInFlight.Of(n)
	case a.Percent:
		return max(0, min((a.Number*n+99)/100, n-1))
	default:
		return max(0, min(a.Number, n-1))
	}
}

// DefaultUpdate returns the policy of a manifest without update blocks.
func DefaultUpdate() Update {
	return Update{
		Canaries:       1,
		MaxInFlight:    Amount{Number: 1},
		WatchMax:       60 * time.Second,
		MinHealthyTime: 3 * time.Second,
		OnFailure:      OnFailureRollback,
	}
}

// Firewall describes what may reach the VMs of a deployment beside its other VMs, SSH and
// public ports.
type Firewall struct {
	Allow []string // addresses, or ranges of them, that reach every port
}

// Group is a number of like instances.
type Group struct {
	Name           string
	Instances      int
	VM             *VM
	AZs            []string // in order; empty: one nameless zone
	AZsRange       hcl.Range
	Disk           *Disk
	Network        *Network
	Jobs           []*GroupJob
	Update         Update
	Exceptions     map[int]*Exception
	PreventDestroy bool
	// Ports are those that the group's jobs listen on, as far as the manifest alone
	// tells them, in ascending order.
	Ports []Port
	// Requires are the groups that must serve before this one starts: from
	// references, links and depends_on. Never the group itself.
	Requires []string
	Range    hcl.Range
}

// Port is a port that instances of a group listen on.
type Port struct {
	Network string // "tcp" or "udp"
	Number  int
	// Public: a load balancer's, for clients from outside.
	Public bool
}

// VMFor returns the VM size of one instance, exceptions applied.
func (g *Group) VMFor(index int) *VM {
	if x := g.Exceptions[index]; x != nil && x.VM != nil {
		return x.VM
	}
	return g.VM
}

// Exception changes one index of a group.
type Exception struct {
	Index int
	VM    *VM // nil: the group's
	Range hcl.Range
}

// GroupJob is a job as a group runs it.
type GroupJob struct {
	Spec *Job
	// Links maps a consumes block's name to the group that provides it.
	Links map[string]string
	Range hcl.Range

	properties hcl.Attributes  // evaluated per instance against Facts
	locals     map[string]bool // that they use, directly or not
	// perInstance: some property refers to instance; else all instances of the
	// group share one evaluation.
	perInstance bool
	links       map[string]provider // by consumes block; absent: none, if optional
}

// PerInstance reports whether the job's properties may differ by instance.
func (j *GroupJob) PerInstance() bool { return j.perInstance }

// Facts are values that are not in the manifest: identities, addresses, secrets.
type Facts struct {
	DeploymentID string
	// Earlier says that the deployment was first made by a version whose defaults
	// were others: properties have their EarlierDefault.
	Earlier bool
	// Secrets are the values by name, objects with the attributes of their type
	// (see SecretType). One that is missing evaluates to unknown.
	Secrets map[string]cty.Value
	// Instances by group, ascending by index.
	Instances map[string][]Instance
	// Leaving are instances on obsolete VMs, by group. Such a VM is deleted once all
	// consumers know its replacement.
	Leaving map[string][]Instance
	// Certificates by CertificateKey: objects with ca, certificate, private_key.
	// One that is missing evaluates to unknown.
	Certificates map[CertificateKey]cty.Value
	// Domains are the certificates of domains that have no secret and no files for
	// them, by Domain.Name: objects as Certificates has them.
	Domains map[string]cty.Value
	// ACMEThumbprint is that of the account at the CA; "": there is none.
	ACMEThumbprint string
	// Packages are the digests of the packages by name (see FindPackage); the
	// path of one that is missing is unknown.
	Packages map[string]string
}

// Instance holds the facts of one instance.
type Instance struct {
	Group string
	Index int
	AZ    string
	// Address and AgentDir are empty as long as the VM does not exist.
	Address  string
	AgentDir string
	// ImageDir is the folder with the files of the VM's image; "": "/".
	ImageDir string
	// System: the VM is this instance's alone, so that it may have a firewall.
	System bool
	// SSHPort is the port at which deploy logs in.
	SSHPort int
}

// CertificateKey names a certificate block of a job on an instance.
type CertificateKey struct {
	Group string
	Index int
	Job   string
	Name  string
}
