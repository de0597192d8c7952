package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Operations that a gateway asks of one node (ServiceNodeSubject), and of all of
// a service's nodes or gateways (ServiceSubject).
const (
	ServiceProvision   = "provision"
	ServiceUnprovision = "unprovision"
	ServiceBind        = "bind"
	ServiceUnbind      = "unbind"
	ServiceRestore     = "restore"
	ServiceDisable     = "disable_instance"
	ServiceEnable      = "enable_instance"
	ServiceImport      = "import_instance"
	ServiceUpdate      = "update_instance"
	ServiceCleanUp     = "cleanupnfs_instance"
	ServicePurge       = "purge_orphan"

	ServiceDiscover     = "discover"
	ServiceAnnounced    = "announce"
	ServiceCheckOrphan  = "check_orphan"
	ServiceNodeHandles  = "node_handles"
	ServiceHandles      = "handles"
	ServiceUpdateHandle = "update_service_handle"
	ServiceLeaveNode    = "leave" // ServiceNodeSubject: ours only
)

// SendHandles is the text of a check_orphan message. It is no JSON.
const SendHandles = "Send Me Handles"

const (
	// ServiceAnnounceInterval is the time between two announces of a node.
	ServiceAnnounceInterval = 30 * time.Second
	// ServiceNodeLost is the time after which a gateway forgets a silent node.
	ServiceNodeLost = 300 * time.Second
	// ServiceMoveLimit is the time that a step of an instance's move may take.
	ServiceMoveLimit = 10 * time.Minute
	// MaxServiceReport is the size of a node_handles message in bytes, which stays
	// below what the bus takes.
	MaxServiceReport = 1<<20 - 200
)

// servicePrefixes are the names on the bus of services that had one.
var servicePrefixes = map[string]string{
	"mysql": "MyaaS", "postgresql": "AuaaS", "redis": "RaaS", "mongodb": "MongoaaS", "neo4j": "Neo4jaaS", "rabbitmq": "RMQaaS",
	"memcached": "MemcachedaaS", "vblob": "VBlobaaS", "echo": "EchoaaS", "elasticsearch": "ElasticSearchaaS", "couchdb": "CouchaaS",
	"filesystem": "FilesystemaaS",
}

// ServicePrefix returns the name on the bus of a service: the original's, or of
// one that it did not have the name with a capital and "aaS".
func ServicePrefix(name string) string {
	if prefix, known := servicePrefixes[name]; known {
		return prefix
	}
	if name == "" {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:] + "aaS"
}

// ServiceSubject returns the subject of an operation that all nodes or gateways
// of a service hear.
func ServiceSubject(prefix, operation string) string { return prefix + "." + operation }

// ServiceNodeSubject returns the subject of an operation of one node.
func ServiceNodeSubject(prefix, operation, node string) string {
	return prefix + "." + operation + "." + node
}

var (
	serviceNodeID   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	serviceInstance = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// ValidServiceNode reports whether an id can stand in a subject.
func ValidServiceNode(id string) bool { return serviceNodeID.MatchString(id) }

// ValidServiceInstance reports whether a name can be an instance's or a user's: it
// can stand in file names and is no option of a program.
func ValidServiceInstance(name string) bool {
	return serviceInstance.MatchString(name) && !strings.HasPrefix(name, "-")
}

// Credentials describe what an app needs to use a service. Each service adds fields of
// its own, so they are kept as they are.
type Credentials map[string]any

// Text returns a field that is text, "" if there is none.
func (c Credentials) Text(field string) string {
	s, _ := c[field].(string)
	return s
}

// Number returns a field that is a number, 0 if there is none.
func (c Credentials) Number(field string) int {
	switch n := c[field].(type) {
	case float64:
		return int(n)
	case int:
		return n
	}
	return 0
}

// Name returns the name of the instance.
func (c Credentials) Name() string { return c.Text("name") }

// User returns whom the credentials admit.
func (c Credentials) User() string {
	if user := c.Text("username"); user != "" {
		return user
	}
	return c.Text("user")
}

// NodeID returns the node on which the instance is.
func (c Credentials) NodeID() string { return c.Text("node_id") }

// Binding identifies a binding among those of a service: its instance and its user.
func (c Credentials) Binding() string { return c.Name() + "/" + c.User() }

// Without returns a copy without the fields.
func (c Credentials) Without(fields ...string) Credentials {
	copied := Credentials{}
	for key, value := range c {
		copied[key] = value
	}
	for _, field := range fields {
		delete(copied, field)
	}
	return copied
}

// ServiceHandle is a gateway's record of an instance or a binding, which the
// controller keeps.
type ServiceHandle struct {
	ServiceID     string         `json:"service_id"`
	Configuration map[string]any `json:"configuration"`
	Credentials   Credentials    `json:"credentials"`
}

// IsInstance reports whether the handle is that of an instance.
func (h ServiceHandle) IsInstance() bool { return h.ServiceID == h.Credentials.Name() }

// ServiceAnnounce is a node's word of what it can take.
type ServiceAnnounce struct {
	ID                string   `json:"id"`
	Plan              string   `json:"plan"`
	SupportedVersions []string `json:"supported_versions"`
	AvailableCapacity int      `json:"available_capacity"`
	CapacityUnit      int      `json:"capacity_unit"`
}

// ServiceDiscovery asks nodes to announce; Plan "" asks those of all plans.
type ServiceDiscovery struct {
	Plan string `json:"plan,omitempty"`
}

// ProvisionRequest asks for an instance; with Credentials, for one that is or was
// there.
type ProvisionRequest struct {
	Plan        string      `json:"plan"`
	Version     string      `json:"version"`
	Credentials Credentials `json:"credentials,omitempty"`
	// Owner and Called are who asks for it and how that user calls it, for the people
	// who run the node. The original has neither.
	Owner  string `json:"owner,omitempty"`
	Called string `json:"called,omitempty"`
}

// UnprovisionRequest asks for an instance's end.
type UnprovisionRequest struct {
	Name     string        `json:"name"`
	Bindings []Credentials `json:"bindings"`
}

// BindRequest asks for a user of an instance; with Credentials, for that user.
type BindRequest struct {
	Name        string          `json:"name"`
	Options     json.RawMessage `json:"bind_opts"`
	Credentials Credentials     `json:"credentials,omitempty"`
	// App is the name of the app that is bound, for the people who run the node. The
	// original does not have it.
	App string `json:"app,omitempty"`
}

// BoundApp is the key under which a binding's configuration has the name of its app.
const BoundApp = "app"

// UnbindRequest asks for a user's end.
type UnbindRequest struct {
	Credentials Credentials `json:"credentials"`
}

// RestoreRequest asks for what a backup has.
type RestoreRequest struct {
	InstanceID string `json:"instance_id"`
	BackupPath string `json:"backup_path"`
}

// ServiceAnswer ends an operation of a node.
type ServiceAnswer struct {
	Success     bool            `json:"success"`
	Credentials Credentials     `json:"credentials,omitempty"`
	Error       *ServiceFailure `json:"error,omitempty"`
}

// ServiceReport describes what a node has, in one or several messages.
type ServiceReport struct {
	Instances []string      `json:"instances_list"`
	Bindings  []Credentials `json:"bindings_list"`
	NodeID    string        `json:"node_id"`
}

// PurgeOrphans names what a node shall remove.
type PurgeOrphans struct {
	Instances []string      `json:"orphan_ins_list"`
	Bindings  []Credentials `json:"orphan_binding_list"`
}

// Migration is an instance with its bindings, as an array of two: the operations
// by which an instance moves to another node have it.
type Migration struct {
	Instance ServiceHandle
	Bindings []ServiceHandle
}

// MarshalJSON writes the array.
func (m Migration) MarshalJSON() ([]byte, error) {
	bindings := m.Bindings
	if bindings == nil {
		bindings = []ServiceHandle{}
	}
	return json.Marshal([]any{m.Instance, bindings})
}

// UnmarshalJSON reads the array.
func (m *Migration) UnmarshalJSON(data []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	if len(parts) != 2 {
		return fmt.Errorf("want an instance and its bindings, have %d elements", len(parts))
	}
	*m = Migration{}
	if err := json.Unmarshal(parts[0], &m.Instance); err != nil {
		return err
	}
	return json.Unmarshal(parts[1], &m.Bindings)
}

func parseService[T interface{ check() error }](data []byte, what string) (T, error) {
	var v, none T
	if err := json.Unmarshal(data, &v); err != nil {
		return none, fmt.Errorf("cannot read %s: %w", what, withoutValue(err))
	}
	if err := v.check(); err != nil {
		return none, fmt.Errorf("cannot use %s: %w", what, err)
	}
	return v, nil
}

// withoutValue is an error of decoding that does not quote what was decoded, which
// may be a password.
func withoutValue(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return fmt.Errorf("%s has the wrong type", kind.Field)
	}
	return err
}

// ParseServiceAnnounce decodes a node's announce.
func ParseServiceAnnounce(data []byte) (ServiceAnnounce, error) {
	return parseService[ServiceAnnounce](data, "a node's announce")
}

func (a ServiceAnnounce) check() error {
	switch {
	case !ValidServiceNode(a.ID):
		return errors.New("its id cannot be a node's")
	case a.CapacityUnit < 0:
		return errors.New("its capacity_unit is negative")
	}
	return nil
}

// ParseServiceDiscovery decodes a discover message, which may be empty.
func ParseServiceDiscovery(data []byte) (ServiceDiscovery, error) {
	if len(data) == 0 {
		return ServiceDiscovery{}, nil
	}
	return parseService[ServiceDiscovery](data, "a discover message")
}

func (ServiceDiscovery) check() error { return nil }

// ParseProvisionRequest decodes a request for an instance.
func ParseProvisionRequest(data []byte) (ProvisionRequest, error) {
	return parseService[ProvisionRequest](data, "a provision request")
}

func (r ProvisionRequest) check() error {
	if r.Plan == "" {
		return errors.New("it has no plan")
	}
	return r.Credentials.check()
}

// check says what is wrong with credentials of an instance that is to be made with
// them; nil are right.
func (c Credentials) check() error {
	if c == nil {
		return nil
	}
	if !ValidServiceInstance(c.Name()) {
		return errors.New("the name in its credentials cannot be an instance's")
	}
	if user := c.User(); user != "" && !ValidServiceInstance(user) {
		return errors.New("the user in its credentials cannot be one")
	}
	if strings.ContainsAny(c.Text("password"), "\x00\n\r") {
		return errors.New("the password in its credentials has a line end or a NUL")
	}
	return nil
}

// ParseUnprovisionRequest decodes a request for an instance's end.
func ParseUnprovisionRequest(data []byte) (UnprovisionRequest, error) {
	return parseService[UnprovisionRequest](data, "an unprovision request")
}

func (r UnprovisionRequest) check() error {
	if !ValidServiceInstance(r.Name) {
		return errors.New("its name cannot be an instance's")
	}
	return nil
}

// ParseBindRequest decodes a request for a user of an instance.
func ParseBindRequest(data []byte) (BindRequest, error) {
	return parseService[BindRequest](data, "a bind request")
}

func (r BindRequest) check() error {
	if !ValidServiceInstance(r.Name) {
		return errors.New("its name cannot be an instance's")
	}
	return r.Credentials.check()
}

// ParseUnbindRequest decodes a request for a user's end.
func ParseUnbindRequest(data []byte) (UnbindRequest, error) {
	return parseService[UnbindRequest](data, "an unbind request")
}

func (r UnbindRequest) check() error {
	if r.Credentials == nil {
		return errors.New("it has no credentials")
	}
	return r.Credentials.check()
}

// ParseRestoreRequest decodes a request for what a backup has.
func ParseRestoreRequest(data []byte) (RestoreRequest, error) {
	return parseService[RestoreRequest](data, "a restore request")
}

func (r RestoreRequest) check() error {
	if !ValidServiceInstance(r.InstanceID) {
		return errors.New("its instance_id cannot be an instance's")
	}
	return nil
}

// ParseServiceAnswer decodes a node's answer. A failure is read without an error.
func ParseServiceAnswer(data []byte) (ServiceAnswer, error) {
	return parseService[ServiceAnswer](data, "a node's answer")
}

func (a ServiceAnswer) check() error {
	if a.Success || a.Error != nil {
		return nil
	}
	return errors.New("it is neither a success nor an error")
}

// ParseServiceReport decodes what a node has.
func ParseServiceReport(data []byte) (ServiceReport, error) {
	return parseService[ServiceReport](data, "a node's handles")
}

func (r ServiceReport) check() error {
	if !ValidServiceNode(r.NodeID) {
		return errors.New("its node_id cannot be a node's")
	}
	return nil
}

// ParsePurgeOrphans decodes what a node shall remove.
func ParsePurgeOrphans(data []byte) (PurgeOrphans, error) {
	return parseService[PurgeOrphans](data, "a purge request")
}

func (PurgeOrphans) check() error { return nil }

// ParseMigration decodes an instance with its bindings.
func ParseMigration(data []byte) (Migration, error) {
	return parseService[Migration](data, "an instance with its bindings")
}

func (m Migration) check() error {
	if m.Instance.Credentials == nil {
		return errors.New("its instance has no credentials")
	}
	if err := m.Instance.Credentials.check(); err != nil {
		return err
	}
	if _, err := m.Instance.Move(); err != nil {
		return err
	}
	for _, b := range m.Bindings {
		if b.Credentials == nil || b.Credentials.Name() != m.Instance.Credentials.Name() {
			return errors.New("a binding is not one of its instance")
		}
		if err := b.Credentials.check(); err != nil {
			return err
		}
	}
	return nil
}

// ParseServiceHandle decodes a handle.
func ParseServiceHandle(data []byte) (ServiceHandle, error) {
	return parseService[ServiceHandle](data, "a handle")
}

func (h ServiceHandle) check() error {
	if h.ServiceID == "" {
		return errors.New("it has no service_id")
	}
	return h.Credentials.check()
}

// ServiceFailure is an error of a node or a gateway, with the HTTP status and body
// that the gateway answers.
type ServiceFailure struct {
	Status int            `json:"status"`
	Msg    ServiceMessage `json:"msg"`
}

// ServiceMessage is the body of an error.
type ServiceMessage struct {
	Code        int           `json:"code"`
	Description string        `json:"description"`
	Error       ServiceDetail `json:"error"`
}

// ServiceDetail describes where the original had a stack trace. It stays empty.
type ServiceDetail struct {
	Backtrace []string `json:"backtrace"`
	Types     []string `json:"types"`
}

// Error is the description.
func (f *ServiceFailure) Error() string { return f.Msg.Description }

// Codes of ServiceFailure.
const (
	ServiceContentType    = 30000
	ServiceMalformed      = 30001
	ServiceUnknownPlan    = 30003
	ServiceNoVersion      = 30004
	ServiceUnauthorized   = 30100
	ServiceNotFound       = 30300
	ServiceInternal       = 30500
	ServiceExtension      = 30501
	ServiceNodeTimeout    = 30502
	ServiceUnavailable    = 30600
	ServiceGatewayTimeout = 30700
)

// serviceStatus has the HTTP status of each code.
var serviceStatus = map[int]int{
	ServiceContentType: 400, ServiceMalformed: 400, ServiceUnknownPlan: 400, ServiceNoVersion: 400, ServiceUnauthorized: 401, ServiceNotFound: 404,
	ServiceInternal: 500, ServiceExtension: 501, ServiceNodeTimeout: 500, ServiceUnavailable: 503, ServiceGatewayTimeout: 504,
}

// Failure returns an error of the table. What is told goes to users: it names no
// password and no file.
func Failure(code int, format string, args ...any) *ServiceFailure {
	status, known := serviceStatus[code]
	if !known {
		status = 500
	}
	return &ServiceFailure{status, ServiceMessage{code, fmt.Sprintf(format, args...), ServiceDetail{[]string{}, []string{}}}}
}
