package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Offering is a service that a gateway offers.
type Offering struct {
	ID       int64
	Label    string          // <name>-<version>
	Provider string          // "" is core
	Document json.RawMessage // as the gateway posted it
	Active   bool
}

// ServiceInstance describes what a user has provisioned.
type ServiceInstance struct {
	ID            int64
	OwnerID       int64
	Offering      Offering
	Alias         string // the user's name for it
	GatewayID     string // the gateway's; "": is being provisioned
	Plan          string
	PlanOption    string
	Version       string
	Configuration json.RawMessage
	Credentials   json.RawMessage
	CreatedAt     int64
	UpdatedAt     int64
}

// Binding gives an app the use of an instance.
type Binding struct {
	ID            int64
	AppID         int64
	Instance      ServiceInstance
	GatewayID     string
	Token         string // by which it is removed
	Options       json.RawMessage
	Configuration json.RawMessage
	Credentials   json.RawMessage
}

// BindingToken lets another user bind to an instance.
type BindingToken struct {
	Token    string
	Instance ServiceInstance
	Options  json.RawMessage
}

// ServiceStore keeps offerings, instances, bindings and tokens.
type ServiceStore struct{ *database }

const (
	offeringColumns = `s.id, s.label, s.provider, s.document, s.active`
	upsertOffering  = `INSERT INTO services (label, provider, document, active, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)
		ON CONFLICT (label, provider) DO UPDATE SET document = excluded.document, active = excluded.active, updated_at = excluded.updated_at`
	selectOfferings = `SELECT ` + offeringColumns + ` FROM services s ORDER BY s.label, s.provider`
	selectOffering  = `SELECT ` + offeringColumns + ` FROM services s WHERE s.label = $1 AND s.provider = $2`
	deleteOffering  = `DELETE FROM services WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM service_instances WHERE service_id = $1)`

	instanceColumns = `i.id, i.owner_id, i.alias, i.gateway_id, i.plan, i.plan_option, i.version, i.configuration, i.credentials, i.created_at, i.updated_at, ` + offeringColumns
	fromInstances   = ` FROM service_instances i JOIN services s ON s.id = i.service_id`
	insertInstance  = `INSERT INTO service_instances (owner_id, service_id, alias, plan, plan_option, version, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7) RETURNING id`
	updateInstance    = `UPDATE service_instances SET gateway_id = $2, configuration = $3, credentials = $4, updated_at = $5 WHERE id = $1`
	deleteInstance    = `DELETE FROM service_instances WHERE id = $1`
	selectInstance    = `SELECT ` + instanceColumns + fromInstances + ` WHERE i.owner_id = $1 AND i.alias = $2`
	selectInstances   = `SELECT ` + instanceColumns + fromInstances + ` WHERE i.owner_id = $1 ORDER BY i.alias`
	selectInstancesOf = `SELECT ` + instanceColumns + fromInstances + ` WHERE i.service_id = $1 AND i.gateway_id <> '' ORDER BY i.id`
	countInstances    = `SELECT count(*) FROM service_instances WHERE owner_id = $1`

	bindingColumns = `b.id, b.app_id, b.gateway_id, b.token, b.options, b.configuration, b.credentials, ` + instanceColumns
	fromBindings   = ` FROM service_bindings b JOIN service_instances i ON i.id = b.instance_id JOIN services s ON s.id = i.service_id`
	insertBinding  = `INSERT INTO service_bindings (app_id, instance_id, gateway_id, token, options, configuration, credentials, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) RETURNING id`
	deleteBinding      = `DELETE FROM service_bindings WHERE id = $1`
	selectBindings     = `SELECT ` + bindingColumns + fromBindings + ` WHERE b.app_id = $1 ORDER BY b.id`
	selectBindingsTo   = `SELECT ` + bindingColumns + fromBindings + ` WHERE b.instance_id = $1 ORDER BY b.id`
	selectBindingsOf   = `SELECT ` + bindingColumns + fromBindings + ` WHERE i.service_id = $1 ORDER BY b.id`
	selectBinding      = `SELECT ` + bindingColumns + fromBindings + ` WHERE b.token = $1`
	selectBoundAliases = `SELECT b.app_id, i.alias` + fromBindings + ` JOIN apps a ON a.id = b.app_id WHERE a.owner_id = $1 ORDER BY b.id`
	markRestage        = `UPDATE apps SET package_state = $2, updated_at = $3, lock_version = lock_version + 1 WHERE id = $1`

	updateInstanceHandle = `UPDATE service_instances SET configuration = $3, credentials = $4, updated_at = $5 WHERE service_id = $1 AND gateway_id = $2`
	selectInstanceNow    = `SELECT configuration FROM service_instances WHERE service_id = $1 AND gateway_id = $2`
	replaceInstance      = `UPDATE service_instances SET configuration = $3, credentials = $4, updated_at = $5 WHERE service_id = $1 AND gateway_id = $2 AND configuration = $6`
	updateBindingHandle  = `UPDATE service_bindings SET configuration = $3, credentials = $4, updated_at = $5
		WHERE gateway_id = $2 AND instance_id IN (SELECT id FROM service_instances WHERE service_id = $1)`

	countBindingTokens = `SELECT COUNT(*) FROM binding_tokens WHERE instance_id = $1`
	insertBindingToken = `INSERT INTO binding_tokens (token, instance_id, options, created_at) VALUES ($1, $2, $3, $4)`
	selectBindingToken = `SELECT t.token, t.options, ` + instanceColumns + ` FROM binding_tokens t JOIN service_instances i ON i.id = t.instance_id
		JOIN services s ON s.id = i.service_id WHERE t.token = $1`
	deleteBindingToken = `DELETE FROM binding_tokens WHERE token = $1`
)

func (o *Offering) fields() []any {
	return []any{&o.ID, &o.Label, &o.Provider, text{&o.Document}, &o.Active}
}

func (i *ServiceInstance) fields() []any {
	return append([]any{&i.ID, &i.OwnerID, &i.Alias, &i.GatewayID, &i.Plan, &i.PlanOption, &i.Version, text{&i.Configuration}, text{&i.Credentials},
		&i.CreatedAt, &i.UpdatedAt}, i.Offering.fields()...)
}

func (b *Binding) fields() []any {
	return append([]any{&b.ID, &b.AppID, &b.GatewayID, &b.Token, text{&b.Options}, text{&b.Configuration}, text{&b.Credentials}}, b.Instance.fields()...)
}

// text reads JSON, which the tables have as text.
type text struct{ into *json.RawMessage }

func (t text) Scan(v any) error {
	switch v := v.(type) {
	case string:
		*t.into = json.RawMessage(v)
	case []byte:
		*t.into = append(json.RawMessage(nil), v...)
	default:
		return fmt.Errorf("cannot read JSON from a %T", v)
	}
	return nil
}

// written is JSON as the tables have it. PostgreSQL's text has no NUL character;
// JSON has it escaped.
func written(doc json.RawMessage) string {
	if len(doc) == 0 {
		return "null"
	}
	return string(doc)
}

func scanInstance(rows *sql.Rows) (i ServiceInstance, err error) {
	err = rows.Scan(i.fields()...)
	return i, err
}

func scanBinding(rows *sql.Rows) (b Binding, err error) {
	err = rows.Scan(b.fields()...)
	return b, err
}

// PutOffering adds an offering or replaces the one with its label and provider.
func (s *ServiceStore) PutOffering(ctx context.Context, o Offering) error {
	if _, err := s.db.ExecContext(ctx, upsertOffering, o.Label, o.Provider, written(o.Document), o.Active, s.now().Unix()); err != nil {
		return fmt.Errorf("cannot keep the offering: %w", err)
	}
	return nil
}

// Offerings are all of them, those that are not active too.
func (s *ServiceStore) Offerings(ctx context.Context) ([]Offering, error) {
	list, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (o Offering, err error) {
		err = rows.Scan(o.fields()...)
		return o, err
	}, selectOfferings)
	if err != nil {
		return nil, fmt.Errorf("cannot list the offerings: %w", err)
	}
	return list, nil
}

// Offering finds one; ErrNotFound if there is none.
func (s *ServiceStore) Offering(ctx context.Context, label, provider string) (o Offering, err error) {
	if err := notFound(s.db.QueryRowContext(ctx, selectOffering, label, provider).Scan(o.fields()...)); err != nil {
		return Offering{}, fmt.Errorf("cannot read the offering: %w", err)
	}
	return o, nil
}

// DeleteOffering removes an offering; ErrExists if there are instances of it.
func (s *ServiceStore) DeleteOffering(ctx context.Context, id int64) error {
	result, err := s.db.ExecContext(ctx, deleteOffering, id)
	if err := sqldb.Changed(result, err, ErrExists); err != nil {
		return fmt.Errorf("cannot remove the offering: %w", err)
	}
	return nil
}

// CreateServiceInstance reserves a name for an instance that is about to be
// provisioned, and sets its ID. ErrExists if the owner has one with that alias.
func (s *ServiceStore) CreateServiceInstance(ctx context.Context, i *ServiceInstance, limits Limits) error {
	created := *i
	err := s.change(ctx, i.OwnerID, limits, func(q sqldb.Querier) error {
		created.CreatedAt = s.now().Unix()
		created.UpdatedAt = created.CreatedAt
		err := q.QueryRowContext(ctx, insertInstance, i.OwnerID, i.Offering.ID, i.Alias, i.Plan, i.PlanOption, i.Version, created.CreatedAt).Scan(&created.ID)
		if sqldb.IsDuplicate(err) {
			return ErrExists
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot add the service: %w", err)
	}
	*i = created
	return nil
}

// SetProvisioned notes what the gateway has answered; ErrNotFound if the instance
// was removed meanwhile.
func (s *ServiceStore) SetProvisioned(ctx context.Context, i ServiceInstance) error {
	result, err := s.db.ExecContext(ctx, updateInstance, i.ID, i.GatewayID, written(i.Configuration), written(i.Credentials), s.now().Unix())
	if err := sqldb.Changed(result, err, ErrNotFound); err != nil {
		return fmt.Errorf("cannot keep what the gateway answered: %w", err)
	}
	return nil
}

// DeleteServiceInstance removes an instance with its bindings, whose apps are to
// be staged again.
func (s *ServiceStore) DeleteServiceInstance(ctx context.Context, id int64) error {
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		bindings, err := sqldb.Collect(ctx, q, scanBinding, selectBindingsTo, id)
		if err != nil {
			return err
		}
		for _, b := range bindings {
			if _, err := q.ExecContext(ctx, markRestage, b.AppID, Pending, s.now().Unix()); err != nil {
				return err
			}
		}
		result, err := q.ExecContext(ctx, deleteInstance, id)
		return sqldb.Changed(result, err, ErrNotFound)
	})
	if err != nil {
		return fmt.Errorf("cannot remove the service: %w", err)
	}
	return nil
}

// ServiceInstance finds a user's by its alias; ErrNotFound if there is none.
func (s *ServiceStore) ServiceInstance(ctx context.Context, ownerID int64, alias string) (i ServiceInstance, err error) {
	if err := notFound(s.db.QueryRowContext(ctx, selectInstance, ownerID, alias).Scan(i.fields()...)); err != nil {
		return ServiceInstance{}, fmt.Errorf("cannot read the service: %w", err)
	}
	return i, nil
}

// ServiceInstances are a user's, by alias.
func (s *ServiceStore) ServiceInstances(ctx context.Context, ownerID int64) ([]ServiceInstance, error) {
	return s.serviceInstances(ctx, selectInstances, ownerID)
}

// ServiceInstancesOf are the provisioned instances of an offering.
func (s *ServiceStore) ServiceInstancesOf(ctx context.Context, offeringID int64) ([]ServiceInstance, error) {
	return s.serviceInstances(ctx, selectInstancesOf, offeringID)
}

func (s *ServiceStore) serviceInstances(ctx context.Context, query string, id int64) ([]ServiceInstance, error) {
	list, err := sqldb.Collect(ctx, s.db, scanInstance, query, id)
	if err != nil {
		return nil, fmt.Errorf("cannot list the services: %w", err)
	}
	return list, nil
}

// CreateBinding adds a binding; its app is to be staged again. ErrExists if the
// app has one to that instance.
func (s *ServiceStore) CreateBinding(ctx context.Context, b Binding) error {
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		var id int64
		err := q.QueryRowContext(ctx, insertBinding, b.AppID, b.Instance.ID, b.GatewayID, b.Token, written(b.Options), written(b.Configuration),
			written(b.Credentials), s.now().Unix()).Scan(&id)
		if sqldb.IsDuplicate(err) {
			return ErrExists
		}
		if err != nil {
			return err
		}
		result, err := q.ExecContext(ctx, markRestage, b.AppID, Pending, s.now().Unix())
		return sqldb.Changed(result, err, ErrNotFound)
	})
	if err != nil {
		return fmt.Errorf("cannot add the binding: %w", err)
	}
	return nil
}

// DeleteBinding removes a binding; its app is to be staged again.
func (s *ServiceStore) DeleteBinding(ctx context.Context, b Binding) error {
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		result, err := q.ExecContext(ctx, deleteBinding, b.ID)
		if err := sqldb.Changed(result, err, ErrNotFound); err != nil {
			return err
		}
		_, err = q.ExecContext(ctx, markRestage, b.AppID, Pending, s.now().Unix())
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot remove the binding: %w", err)
	}
	return nil
}

// Bindings are an app's, the oldest first.
func (s *ServiceStore) Bindings(ctx context.Context, appID int64) ([]Binding, error) {
	return s.bindings(ctx, selectBindings, appID)
}

// BindingsTo are those to an instance.
func (s *ServiceStore) BindingsTo(ctx context.Context, instanceID int64) ([]Binding, error) {
	return s.bindings(ctx, selectBindingsTo, instanceID)
}

// BindingsOf are those to the instances of an offering.
func (s *ServiceStore) BindingsOf(ctx context.Context, offeringID int64) ([]Binding, error) {
	return s.bindings(ctx, selectBindingsOf, offeringID)
}

func (s *ServiceStore) bindings(ctx context.Context, query string, id int64) ([]Binding, error) {
	list, err := sqldb.Collect(ctx, s.db, scanBinding, query, id)
	if err != nil {
		return nil, fmt.Errorf("cannot list the bindings: %w", err)
	}
	return list, nil
}

// Binding finds one by its token; ErrNotFound if there is none.
func (s *ServiceStore) Binding(ctx context.Context, token string) (b Binding, err error) {
	if err := notFound(s.db.QueryRowContext(ctx, selectBinding, token).Scan(b.fields()...)); err != nil {
		return Binding{}, fmt.Errorf("cannot read the binding: %w", err)
	}
	return b, nil
}

// BoundAliases are the names of the services of each of a user's apps.
func (s *ServiceStore) BoundAliases(ctx context.Context, ownerID int64) (map[int64][]string, error) {
	list, err := sqldb.Collect(ctx, s.db, scanHost, selectBoundAliases, ownerID)
	if err != nil {
		return nil, fmt.Errorf("cannot list the bindings: %w", err)
	}
	aliases := map[int64][]string{}
	for _, one := range list {
		aliases[one.app] = append(aliases[one.app], one.host)
	}
	return aliases, nil
}

// UpdateHandle notes what a gateway says of an instance or a binding of its
// offering; ErrNotFound if there is none.
func (s *ServiceStore) UpdateHandle(ctx context.Context, offeringID int64, gatewayID string, configuration, credentials json.RawMessage) error {
	for _, query := range []string{updateInstanceHandle, updateBindingHandle} {
		result, err := s.db.ExecContext(ctx, query, offeringID, gatewayID, written(configuration), written(credentials), s.now().Unix())
		if err != nil {
			return fmt.Errorf("cannot keep the handle: %w", err)
		}
		if n, err := result.RowsAffected(); err == nil && n > 0 {
			return nil
		}
	}
	return fmt.Errorf("cannot keep the handle: %w", ErrNotFound)
}

// ReplaceHandle notes what a gateway says of an instance of its offering if the
// configuration on record still says the same as was, as JSON. ErrStale if not,
// ErrNotFound if there is no such instance.
func (s *ServiceStore) ReplaceHandle(ctx context.Context, offeringID int64, gatewayID string, was, configuration, credentials json.RawMessage) error {
	var now json.RawMessage
	if err := notFound(s.db.QueryRowContext(ctx, selectInstanceNow, offeringID, gatewayID).Scan(text{&now})); err != nil {
		return fmt.Errorf("cannot keep the handle: %w", err)
	}
	var before, present any
	if err := errors.Join(json.Unmarshal(was, &before), json.Unmarshal(now, &present)); err != nil {
		return fmt.Errorf("cannot read a handle's configuration: %w", err)
	}
	if !reflect.DeepEqual(before, present) {
		return fmt.Errorf("cannot keep the handle: %w", ErrStale)
	}
	result, err := s.db.ExecContext(ctx, replaceInstance, offeringID, gatewayID, written(configuration), written(credentials), s.now().Unix(), string(now))
	if err := sqldb.Changed(result, err, ErrStale); err != nil {
		return fmt.Errorf("cannot keep the handle: %w", err)
	}
	return nil
}

// MaxBindingTokens is the number of binding tokens that an instance has at most.
const MaxBindingTokens = 50

// CreateBindingToken adds a token; ErrTooMany if there are MaxBindingTokens.
func (s *ServiceStore) CreateBindingToken(ctx context.Context, t BindingToken) error {
	var there int
	if err := s.db.QueryRowContext(ctx, countBindingTokens, t.Instance.ID).Scan(&there); err != nil {
		return fmt.Errorf("cannot count the binding tokens: %w", err)
	}
	if there >= MaxBindingTokens {
		return ErrTooMany
	}
	if _, err := s.db.ExecContext(ctx, insertBindingToken, t.Token, t.Instance.ID, written(t.Options), s.now().Unix()); err != nil {
		return fmt.Errorf("cannot add the binding token: %w", err)
	}
	return nil
}

// BindingToken finds one; ErrNotFound if there is none.
func (s *ServiceStore) BindingToken(ctx context.Context, token string) (t BindingToken, err error) {
	if err := notFound(s.db.QueryRowContext(ctx, selectBindingToken, token).Scan(append([]any{&t.Token, text{&t.Options}}, t.Instance.fields()...)...)); err != nil {
		return BindingToken{}, fmt.Errorf("cannot read the binding token: %w", err)
	}
	return t, nil
}

// DeleteBindingToken removes one.
func (s *ServiceStore) DeleteBindingToken(ctx context.Context, token string) error {
	result, err := s.db.ExecContext(ctx, deleteBindingToken, token)
	if err := sqldb.Changed(result, err, ErrNotFound); err != nil {
		return fmt.Errorf("cannot remove the binding token: %w", err)
	}
	return nil
}
